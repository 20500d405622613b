"""Checkpoints of another run, machine or model, and damaged ones, are not used."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpointed import same, trained
from small_data import MODEL
from small_runs import HYPER, create
from vitreg.errors import InputError
from vitreg.train.models.start import Start
from vitreg.train.runs.plan import Run
from vitreg.train.training.checkpoint import NAME


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    stored = torch.load(path, weights_only=True)
    change(stored)
    torch.save(stored, path)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["model"]["blocks.3.attn.qkv.weight"]
    content[content.index(weight.numpy().tobytes()) + 1000] ^= 1
    path.write_bytes(content)


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def harmful(path: Path) -> None:
    torch.save({"owner": _Harmful(path.parent / "executed")}, path)


def other_rate(path: Path) -> None:
    changed(path, lambda stored: stored["owner"]["configuration"]["hyper"].update(lr=0.5))


def other_torch(path: Path) -> None:
    changed(path, lambda stored: stored["owner"]["machine"]["versions"].update(torch="1.0"))


def other_vitreg(path: Path) -> None:
    changed(path, lambda stored: stored["owner"]["machine"]["versions"].update(vitreg="0.0.1"))


def other_threads(path: Path) -> None:
    changed(path, lambda stored: stored["owner"]["machine"].update(threads=77))


def other_source(path: Path) -> None:
    changed(path, lambda stored: stored["owner"].update(start="0123"))


REFUSED = {
    truncated: "it cannot be read: BadZipFile",
    empty: "it cannot be read: BadZipFile",
    one_bit: "it cannot be read: BadZipFile",
    harmful: "it cannot be read: UnpicklingError",
    other_rate: f"lr was 0.5, is {HYPER.lr}",
    other_torch: "torch was 1.0, is ",
    other_vitreg: "vitreg was 0.0.1, is ",
    other_threads: "threads was 77, is ",
    other_source: "start was 0123, is ",
}


@pytest.mark.parametrize("damage", REFUSED, ids=lambda damage: damage.__name__)
def test_checkpoint_that_does_not_fit_is_not_used(
    pair: dict[str, Run],
    unbroken: dict[str, Any],
    half: bytes,
    tmp_path: Path,
    damage: Callable[[Path], None],
) -> None:
    folder = tmp_path / pair["GTA"].configuration.folder
    folder.mkdir()
    (folder / NAME).write_bytes(half)
    damage(folder / NAME)
    weights, log, said, continued = trained(pair["GTA"], tmp_path)
    assert len(said) == 1
    assert said[0].startswith(f"{folder / NAME} is not used, the run starts anew ({REFUSED[damage]}")
    assert continued == 0
    assert log == unbroken["GTA"][1]
    assert same(weights, unbroken["GTA"][0])
    assert not (folder / "executed").exists()


def test_source_that_is_not_the_same_bit_by_bit(pair: dict[str, Run], half: bytes, tmp_path: Path) -> None:
    def another(num_classes: int, drop_path: float) -> torch.nn.Module:
        model = create(num_classes, drop_path)
        weight = model.blocks[2].mlp.fc1.weight.data
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(1.0))
        return model

    run = pair["GTA"]
    (tmp_path / run.configuration.folder).mkdir()
    (tmp_path / run.configuration.folder / NAME).write_bytes(half)
    _, _, said, continued = trained(replace(run, start=Start(MODEL, "seven", another)), tmp_path)
    assert "start was" in said[0]
    assert continued == 0
    (tmp_path / run.configuration.folder / NAME).write_bytes(half)
    assert trained(run, tmp_path)[2:] == (["continued from step 4"], 1)


def test_checkpoint_that_fits_and_cannot_be_loaded_is_an_error(
    pair: dict[str, Run], half: bytes, tmp_path: Path
) -> None:
    path = tmp_path / pair["GTA"].configuration.folder / NAME
    path.parent.mkdir()
    path.write_bytes(half)
    changed(path, lambda stored: stored["model"].pop("cls_token"))
    with pytest.raises(InputError, match=r"cannot continue from .*checkpoint\.pt .*delete it"):
        trained(pair["GTA"], tmp_path)
