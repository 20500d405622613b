"""A run that is interrupted, anywhere, ends with the weights and figures of one that was not."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from checkpointed import EVERY, executed, same, stopped_run, trained
from small_runs import HYPER, METHODS, count_steps, quiet
from vitreg.train.data.batches import Batches
from vitreg.train.data.photographs import Photos
from vitreg.train.runs import report as runs
from vitreg.train.runs.plan import Run
from vitreg.train.runs.report import load_report
from vitreg.train.runs.run import checkpoints_of, trained_model
from vitreg.train.runs.workplace import Workplace, machine
from vitreg.train.training import checkpoint
from vitreg.train.training.checkpoint import NAME


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", METHODS)
def test_stopped_training_ends_as_the_unbroken_one(
    pair: dict[str, Run],
    unbroken: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    workers: int,
) -> None:
    count_steps(monkeypatch)
    run = pair[method]
    stopped_run(run, tmp_path, stop_after=3)
    stopped_run(run, tmp_path, stop_after=7)
    drawn: list[int] = []
    picture = Photos.picture

    def counted(self: Photos, index: int, *, seed: int) -> Tensor:
        drawn.append(index)
        return picture(self, index, seed=seed)

    monkeypatch.setattr(Photos, "picture", counted)
    weights, log, said, continued = trained(run, tmp_path, workers=workers)
    assert said == ["continued from step 6"]
    assert continued == 2
    assert len(drawn) == (2 * HYPER.batch_size if workers == 0 else 0)  # of the two steps that were left
    expected_weights, expected_log = unbroken[method]
    assert log == expected_log
    assert same(weights, expected_weights)
    # After its end only the evaluation is left: no step is taken, and the weights are there.
    drawn.clear()
    again, log, said, _ = trained(run, tmp_path, workers=workers)
    assert said == ["continued from step 8"]
    assert not drawn
    assert log == expected_log
    assert same(again, expected_weights)


def test_batches_go_on_from_a_step() -> None:
    whole = list(Batches(range(10), batch_size=4, steps=9, seed=1))
    rest = Batches(range(10), batch_size=4, steps=9, seed=1, first=5)
    assert list(rest) == whole[5:]
    assert len(rest) == 4


def test_told_steps_are_those_of_the_whole_run(
    pair: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_steps(monkeypatch)
    stopped_run(pair["fine-tune"], tmp_path)
    told: list[None] = []
    accelerator = Accelerator(cpu=True)
    place = Workplace(tmp_path, accelerator, 0, quiet(), checkpoint_seconds=EVERY)
    trained_model(
        pair["fine-tune"],
        accelerator=accelerator,
        workers=0,
        on_step=lambda: told.append(None),
        checkpoints=checkpoints_of(pair["fine-tune"], place),
    )
    assert len(told) == HYPER.steps


def test_full_disk_is_told_once_and_the_training_goes_on(
    pair: dict[str, Run], unbroken: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_steps(monkeypatch)
    fsync, calls = os.fsync, itertools.count()

    def full(descriptor: int) -> None:
        if next(calls) >= 2:  # the first checkpoint is whole: its file and its folder
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    weights, _, said, _ = trained(pair["GTA"], tmp_path)
    assert next(calls) == 5  # it was tried again at steps 4, 6 and 8
    folder = tmp_path / pair["GTA"].configuration.folder
    told = f"cannot write {folder / NAME}: No space left on device; the training goes on without it"
    assert said == [told]
    assert same(weights, unbroken["GTA"][0])
    assert [path.name for path in folder.iterdir()] == [NAME]
    assert torch.load(folder / NAME, weights_only=True)["step"] == 2
    monkeypatch.undo()
    weights, log, said, _ = trained(pair["GTA"], tmp_path)
    assert said == ["continued from step 2"]
    assert log == unbroken["GTA"][1]
    assert same(weights, unbroken["GTA"][0])


def test_report_that_cannot_be_written_is_an_error_and_goes_on_later(
    pair: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: str | bytes) -> None:
        raise OSError(28, "No space left on device")

    run = pair["fine-tune"]
    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_atomically", full)
        with pytest.raises(OSError, match="No space"):
            executed([run], tmp_path)
    assert load_report(tmp_path, run.configuration) is None
    folder = tmp_path / run.configuration.folder
    (folder / f".{NAME}.torn").write_bytes(b"half")
    [report] = executed([run], tmp_path)
    assert report.continued == 1
    assert sorted(path.name for path in folder.iterdir()) == [
        "DONE",
        "lock",
        "predictions.csv",
        "report.json",
        "train.csv",
    ]
    (folder / NAME).write_bytes(b"of a kill after DONE")
    assert executed([run], tmp_path) == [report]
    assert not (folder / NAME).exists()


def test_none_is_written_or_read_at_zero(
    pair: dict[str, Run], half: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pair["GTA"]
    (tmp_path / run.configuration.folder).mkdir()
    (tmp_path / run.configuration.folder / NAME).write_bytes(half)

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(checkpoint, "write_atomically", never)
    [report] = executed([run], tmp_path, every=0)
    assert report.continued == 0
    assert not (tmp_path / run.configuration.folder / NAME).exists()


def test_machine_says_what_the_figures_depend_on() -> None:
    found = machine(Accelerator(cpu=True))
    assert {"torch", "vitreg", "numpy", "pillow"} <= found["versions"].keys()
    assert {"device", "cpu", "threads", "python"} <= found.keys()
