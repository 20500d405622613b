"""What a method takes on this device: real training steps, and test pictures, by the clock."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine.experiment.job import Job
from vitreg.train.runs.plan import Run
from vitreg.train.runs.run import training_indices
from vitreg.train.training.device import unfuse_attention
from vitreg.train.training.evaluation import evaluate
from vitreg.train.training.hyperparameters import Hyperparameters
from vitreg.train.training.loop import train

FIRST_BATCH, EVALUATED = 8, 32
"""The pictures of the first batch that is measured, larger ones follow while there is time; and of a test."""

NEVER = 10**9

Clock = Callable[[], float]


class EnoughError(Exception):
    """Ends a training of which enough was seen."""


@dataclass(frozen=True)
class Pace:
    """What a method takes on this device.

    Attributes:
        start: seconds of a run before its first step.
        step: seconds of a step, of views that were seen before where views are kept.
        new_step: the same of pictures that are augmented, and read by the source, anew.
        view_bytes: what is kept on the disk of a view that the source has read.
    """

    start: float
    step: float
    new_step: float
    view_bytes: float = 0.0


class Stopwatch:
    """Measures real steps of a run's method, in trainings that are thrown away."""

    def __init__(self, run: Run, job: Job, clock: Clock, seconds: float) -> None:
        assert run.configuration.hyper is not None
        self.run, self.place, self.clock, self.seconds = run, job.place, clock, seconds
        self.hyper, self.start = run.configuration.hyper, 0.0
        self.indices = training_indices(run)

    def largest_batch(self) -> int:
        """Return the largest batch of which a few steps can be measured in the time that there is."""
        whole = self.hyper.batch_size
        size = min(whole, max(FIRST_BATCH, 2 * (self.hyper.micro_batch or 0)))
        while size < whole:
            step = self._step(replace(self.hyper, batch_size=size, views=0), seconds=0.0)
            larger = min(4 * size, whole)
            if (self.place.workers + 2) * step * larger / size > self.seconds:
                break
            size = larger
        return size

    def pace(self, size: int) -> Pace:
        """Return what the method takes, from batches of `size` pictures."""
        hyper, scale = replace(self.hyper, batch_size=size), self.hyper.batch_size / size
        new = scale * self._mean_step(replace(hyper, views=0))
        if not hyper.views:
            return Pace(self.start, new, new)
        with tempfile.TemporaryDirectory() as folder:
            self.indices = self.indices[:size]  # of which a step has seen all, in one view each
            kept = scale * self._mean_step(replace(hyper, views=1), Path(folder))
            stored = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        return Pace(self.start, kept, new, stored / len(self.run.task.train_labels))

    def _mean_step(self, hyper: Hyperparameters, readings: Path | None = None) -> float:
        """Return the seconds of a step, with its share of the penalty that is not taken at each."""
        guided = self._step(replace(hyper, every=1), readings)
        if hyper.every == 1:
            return guided
        unguided = self._step(replace(hyper, every=NEVER), readings)
        return unguided + (guided - unguided) / hyper.every

    def _step(
        self, hyper: Hyperparameters, readings: Path | None = None, seconds: float | None = None
    ) -> float:
        """Return the seconds of a step behind the first, over `seconds`, one step at least."""
        c, place, enough = self.run.configuration, self.place, self.seconds if seconds is None else seconds
        began, times = self.clock(), list[float]()
        model = self.run.start.create(len(self.run.task.classes), hyper.drop_path)
        if not c.fused_attention:
            unfuse_attention(model)

        def note() -> None:
            if place.accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(self.clock())
            if len(times) >= 2 + place.workers and times[-1] - times[0] >= enough:
                raise EnoughError

        with suppress(EnoughError):
            train(
                model,
                self.run.task,
                self.indices,
                replace(hyper, steps=NEVER),
                seed=c.seed,
                accelerator=place.accelerator,
                method=c.method,
                lam=c.lam,
                workers=place.workers,
                readings=readings,
                on_step=note,
            )
        mean = (times[-1] - times[0]) / (len(times) - 1)
        self.start = max(0.0, times[0] - began - mean)
        return mean


def picture_seconds(run: Run, job: Job, clock: Clock) -> float:
    """Return the seconds of a test picture, from some of them."""
    task, some = run.task, slice(EVALUATED)
    masks = None if task.test_masks is None else task.test_masks[some]
    tested = replace(task, test=task.test[some], test_labels=task.test_labels[some], test_masks=masks)
    model = run.start.create(len(task.classes), 0.0)
    began = clock()
    evaluate(model, tested, accelerator=job.place.accelerator)
    return (clock() - began) / len(tested.test_labels)
