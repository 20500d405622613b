"""Files of weights that are damaged, in parts, no files, or of odd numbers, and what would be executed."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from vitreg.cli import main
from vitreg.cli.weights import PRETRAINED, load_timm
from vitreg.errors import ArgumentError, InputError
from vitreg.train.models.pretrained import open_weights
from vitreg.train.models.stored import Card, timm_config
from vitreg.train.models.weights import load_model
from vitreg.weights import nothing_executed, read_weights

MODEL = "test_vit"


def tensors() -> dict[str, Tensor]:
    return {"cls_token": torch.randn(1, 1, 64), "blocks.0.norm1.weight": torch.randn(64)}


def test_each_flipped_bit_of_an_archive_is_seen(tmp_path: Path) -> None:
    state, path = tensors(), tmp_path / "w.pth"
    torch.save(state, path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entry = next(e for e in archive.infolist() if e.filename.endswith("data/0"))
    start = whole.index(state["cls_token"].numpy().tobytes())
    assert entry.file_size == 256
    for place in range(start, start + entry.file_size, 13):
        flipped = bytearray(whole)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(InputError, match=r"expected a whole .*Bad CRC-32 .*fetch it again"):
            read_weights(path)


def test_an_archive_without_checksums_is_read(tmp_path: Path) -> None:
    state = tensors()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_weights(tmp_path / "w.pth")["cls_token"], state["cls_token"])


@pytest.mark.parametrize(
    "odd",
    [
        torch.ones(1, 1, 64, dtype=torch.complex64),
        torch.ones(1, 1, 64, device="meta"),
        torch.ones(1, 1, 64).to_sparse(),
    ],
    ids=["complex", "meta", "sparse"],
)
@pytest.mark.filterwarnings("ignore")  # torch says that sparse ones take time
def test_tensors_that_are_no_plain_numbers(tmp_path: Path, odd: Tensor) -> None:
    torch.save({**tensors(), "cls_token": odd}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"plain numbers, .* in cls_token; save them in float32"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_are_no_weights(tmp_path: Path, kind: torch.dtype) -> None:
    state = timm.create_model(MODEL, num_classes=2, img_size=32).state_dict()
    state["blocks.0.attn.qkv.weight"] = state["blocks.0.attn.qkv.weight"].mul(127).to(kind)
    save_file(state, tmp_path / "w.safetensors")
    said = f"of another type: blocks.0.attn.qkv.weight {kind} instead of torch.float32"
    with pytest.raises(InputError, match=said):
        load_model(MODEL, read_weights(tmp_path / "w.safetensors"), num_classes=2, size=32)


@pytest.mark.parametrize(
    "name", ["model-00001-of-00002.safetensors", "pytorch_model-2-of-3.bin", "model.safetensors.index.json"]
)
def test_a_model_in_parts(tmp_path: Path, name: str) -> None:
    save_file(tensors(), tmp_path / name)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(InputError, match=r"found a model in parts; put them together: .*save_file"):
            read_weights(path)


def test_a_single_part_is_whole(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "model-00001-of-00001.safetensors")
    assert len(read_weights(tmp_path / "model-00001-of-00001.safetensors")) == 2


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pth")
    for path in (tmp_path / "w.pth", Path("/dev/zero")):
        with pytest.raises(InputError, match="expected a file, found a pipe or a device"):
            open_weights(str(path), MODEL)


def test_arrays_of_objects_are_not_executed(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.array([Executed(tmp_path)], dtype=object))
    with pytest.raises(InputError, match="would have to be executed") as caught:
        read_weights(tmp_path / "w.npz")
    assert "allow_pickle" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


class Executed:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> object:
        return Path.touch, (self.folder / "executed",)


def execute(path: Path) -> None:
    """Read a file as timm 1.0.20 to 1.0.25 reads those of folders."""
    torch.load(path, map_location="cpu", weights_only=False)


def test_no_library_executes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": Executed(tmp_path)}, tmp_path / "w.bin")

    def create_model(name: str, **options: object) -> None:
        execute(tmp_path / "w.bin")

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(InputError, match="cannot get the weights of"):
        open_weights("timm", "vit_tiny_patch16_224.augreg_in21k")
    with pytest.raises(ArgumentError, match="Cannot fetch"):
        load_timm("vit_tiny_patch16_224", PRETRAINED, None)
    assert not (tmp_path / "executed").exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    with nothing_executed(), pytest.raises(Exception, match="Weights only load failed"):
        execute(tmp_path / "w.bin")
    execute(tmp_path / "w.bin")  # which shows what the test guards against
    assert (tmp_path / "executed").exists()


def test_of_a_folder_only_its_safetensors_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("result").mkdir()
    state = timm.create_model(MODEL, num_classes=2, img_size=32).state_dict()
    save_file(state, "result/model.safetensors")
    numbers = (0.5, 0.5, 0.5)
    Path("result/config.json").write_text(
        timm_config(Card(MODEL, {"img_size": 32}, 32, numbers, numbers, ("a", "b")))
    )
    # timm 1.0.20 prefers this file to the one above, and executes it.
    torch.save({"a": Executed(tmp_path)}, "result/pytorch_model.bin")
    loaded = load_timm("local-dir:result", PRETRAINED, None)
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    Path("result/model.safetensors").unlink()
    assert main(["attention", "local-dir:result", "p.png", "-o", "o.png"]) == 2
    assert not Path("executed").exists()
