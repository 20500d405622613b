"""Runs with checkpoints, and whether weights are the same."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from small_runs import quiet
from vitreg.train.runs.execution import execute
from vitreg.train.runs.plan import Run
from vitreg.train.runs.report import Report
from vitreg.train.runs.run import checkpoints_of, trained_model
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training.checkpoint import NAME

EVERY = 2
"""Steps between two checkpoints: the tests' clock counts steps."""
Weights = dict[str, Tensor]


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def executed(some: list[Run], out: Path, *, workers: int = 0, every: float = EVERY) -> list[Report]:
    place = Workplace(out, Accelerator(cpu=True), workers, quiet(), checkpoint_seconds=every)
    return execute(some, place)


class StoppedError(Exception):
    pass


def trained(
    run: Run, out: Path | None, *, workers: int = 0, stop_after: int = -1
) -> tuple[Weights, list[dict[str, float]], list[str], int]:
    """Return weights, log, what was said, and how many times it was continued."""
    accelerator, said = Accelerator(cpu=True), list[str]()
    checkpoints = None
    if out is not None:
        (out / run.configuration.folder).mkdir(parents=True, exist_ok=True)
        place = Workplace(out, accelerator, workers, quiet(), checkpoint_seconds=EVERY)
        checkpoints = checkpoints_of(run, place)
        checkpoints.say = said.append
    steps = itertools.count(1)

    def on_step() -> None:
        if next(steps) == stop_after:
            raise StoppedError

    model, log = trained_model(
        run, accelerator=accelerator, workers=workers, on_step=on_step, checkpoints=checkpoints
    )
    return dict(model.state_dict()), log, said, 0 if checkpoints is None else checkpoints.continued


def stopped_run(run: Run, out: Path, *, stop_after: int = 5) -> Path:
    """Stop a run and return its checkpoint, of the last even step."""
    with pytest.raises(StoppedError):
        trained(run, out, stop_after=stop_after)
    return out / run.configuration.folder / NAME
