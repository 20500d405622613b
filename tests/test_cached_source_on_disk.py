"""What a source remembers on the disk: it outlives the process, and damage is noticed."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vitreg
from remembered import SIZE, Passes, penalty
from small_models import Factory


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(SIZE, 3, 32, 32)


@pytest.mark.slow
def test_what_is_remembered_outlives_the_process(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor, tmp_path: Path
) -> None:
    model, source = pair
    torch.save({"pair": pair, "pictures": pictures[:4]}, tmp_path / "saved.pt")
    program = (
        "import sys, torch, vitreg\n"
        "saved = torch.load(sys.argv[1] + '/saved.pt', weights_only=False)\n"
        "model, source = saved['pair']\n"
        "cached = vitreg.CachedSource(source, 12, path=sys.argv[1] + '/cache')\n"
        "with vitreg.attach(model, cached) as attachment:\n"
        "    model(saved['pictures'])\n"
        "    print(attachment.penalty(views=range(4)).item())\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    cached = vitreg.CachedSource(source, SIZE, path=tmp_path / "cache")
    passes = Passes(cached)
    for _ in range(2):
        value = penalty(model, cached, pictures[:4], range(4))
    assert passes.sizes == [1]  # one picture, to see that this is the source that was remembered
    assert value.item() == pytest.approx(float(told.stdout), rel=1e-6)


def test_two_sources_that_are_open_at_once_see_each_others_views(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor, tmp_path: Path
) -> None:
    model, source = pair
    one, other = (vitreg.CachedSource(source, SIZE, path=tmp_path) for _ in range(2))
    passes = Passes(other)
    penalty(model, other, pictures[:2], range(2))
    penalty(model, one, pictures[:4], range(4))
    for _ in range(2):
        penalty(model, other, pictures[:4], range(4))
    assert passes.sizes == [2, 1]  # its own two, then one to see that the other's are what it would read


def test_another_source_or_size_has_another_folder(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor, tmp_path: Path
) -> None:
    model, source = pair
    other = copy.deepcopy(source)
    with torch.no_grad():
        other.blocks[0].attn.qkv.weight[0, 0] += 0.1
    headed = copy.deepcopy(source)
    headed.reset_classifier(7)  # the head is not read
    for each, size in ((source, SIZE), (other, SIZE), (source, SIZE + 1), (headed, SIZE)):
        penalty(model, vitreg.CachedSource(each, size, path=tmp_path), pictures[:4], range(4))
    folders = list(tmp_path.iterdir())
    assert len(folders) == 3
    assert {json.loads((f / "facts.json").read_text())["size"] for f in folders} == {SIZE, SIZE + 1}


def test_a_damaged_row_is_read_again(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor, tmp_path: Path
) -> None:
    model, source = pair
    live = penalty(model, vitreg.CachedSource(source, SIZE, path=tmp_path), pictures[:4], range(4))
    (path,) = tmp_path.glob("*/values.npy")
    values = np.load(path, mmap_mode="r+")
    values[2, 5] += 1
    values.flush()
    cached = vitreg.CachedSource(source, SIZE, path=tmp_path)
    passes = Passes(cached)
    with pytest.warns(UserWarning, match=r"Row 2 .* damaged"):
        again = penalty(model, cached, pictures[:4], range(4))
    assert passes.sizes == [1, 1]  # the row, and another one to see that this is the source
    assert torch.allclose(again, live, rtol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        penalty(model, vitreg.CachedSource(source, SIZE, path=tmp_path), pictures[:4], range(4))


@pytest.mark.parametrize("name", ["values.npy", "prints.npy", "checks.npy", "facts.json"])
@pytest.mark.parametrize("damage", ["shorter", "empty", "gone", "other"])
def test_a_damaged_folder_is_an_error(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor, tmp_path: Path, name: str, damage: str
) -> None:
    model, source = pair
    penalty(model, vitreg.CachedSource(source, SIZE, path=tmp_path), pictures[:4], range(4))
    (path,) = tmp_path.glob(f"*/{name}")
    if damage == "shorter":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "gone":
        path.unlink()
    elif name == "facts.json":
        path.write_text("{}")
    else:
        np.save(path, np.zeros((3, 3), np.float32))
    with pytest.raises(vitreg.StateError, match="Delete it, or choose another path"):
        penalty(model, vitreg.CachedSource(source, SIZE, path=tmp_path), pictures[:4], range(4))


def test_any_flipped_bit_of_the_facts_is_an_error(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor, tmp_path: Path
) -> None:
    model, source = pair
    penalty(model, vitreg.CachedSource(source, SIZE, path=tmp_path), pictures[:4], range(4))
    (path,) = tmp_path.glob("*/facts.json")
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(vitreg.StateError, match="Delete it, or choose another path"):
            penalty(model, vitreg.CachedSource(source, SIZE, path=tmp_path), pictures[:4], range(4))


def test_a_path_that_cannot_be_written_is_an_error(vit: Factory, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(vitreg.StateError, match="choose another path"):
        vitreg.CachedSource(vit(), SIZE, path=tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_an_error(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, source = pair
    cached = vitreg.CachedSource(source, SIZE, path=tmp_path)
    penalty(model, cached, pictures[:2], range(2))
    opened = Path.open

    def full(self: Path, mode: str = "r", *args: object, **options: object) -> object:
        if "+" in mode:
            raise OSError(28, "No space left on device")
        return opened(self, mode, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(vitreg.StateError, match="No space left"):
            penalty(model, cached, pictures[2:4], [2, 3])
    passes = Passes(cached)
    penalty(model, cached, pictures[:4], range(4))  # what could not be written is not taken for known
    assert passes.sizes == [2]


def test_a_source_of_other_code_is_told_apart(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor, tmp_path: Path
) -> None:
    model, source = pair
    penalty(model, vitreg.CachedSource(source, SIZE, path=tmp_path), pictures[:4], range(4))
    (path,) = tmp_path.glob("*/facts.json")
    wider = copy.deepcopy(source)
    for block in wider.blocks:
        block.mlp.act = nn.ReLU()  # seen in the modules: a folder of its own
    penalty(model, vitreg.CachedSource(wider, SIZE, path=tmp_path), pictures[:4], range(4))
    assert len(list(tmp_path.iterdir())) == 2

    other = vitreg.CachedSource(source, SIZE, path=tmp_path)
    block = other.tower.module.blocks[0]  # a hook is not seen there
    block.register_forward_hook(lambda module, args, output: 2 * output)
    penalty(model, other, pictures[6:8], [6, 7])  # of its own, so nothing is recalled yet
    for rows in ([0, 1, 2, 3], [1, 7]):  # and again, for a caller that went on
        with pytest.raises(vitreg.StateError, match=f"{path.parent.name}.*other code"):
            penalty(model, other, pictures[rows], rows)


def test_a_disk_that_is_too_small_is_an_error(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor, tmp_path: Path
) -> None:
    model, source = pair
    with pytest.raises(vitreg.ArgumentError, match="GiB free"):
        penalty(model, vitreg.CachedSource(source, 2**45, path=tmp_path), pictures[:4], range(4))
