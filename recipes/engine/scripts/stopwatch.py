"""What a method takes on this device: real training steps, and test pictures, by the clock."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import vitreg
from engine.experiment.job import Job
from vitreg.train.models.weights import num_outputs
from vitreg.train.runs.plan import Run
from vitreg.train.runs.run import training_indices
from vitreg.train.training.device import unfuse_attention
from vitreg.train.training.evaluation import evaluate
from vitreg.train.training.guided_model import Whole
from vitreg.train.training.hyperparameters import Hyperparameters
from vitreg.train.training.loop import train
from vitreg.train.training.methods import target_of

FIRST_BATCH, EVALUATED = 2, 32
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
        steps: from how many steps this was concluded.
    """

    start: float
    step: float
    new_step: float
    view_bytes: float = 0.0
    steps: int = 0


class Stopwatch:
    """Measures real steps of a run's method, in trainings that are thrown away.

    A first step is slower than those that follow, so it is not counted, but on a CPU where it alone takes all
    the time that there is.

    Attributes:
        longest: seconds of the longest training so far.
    """

    def __init__(self, run: Run, job: Job, clock: Clock) -> None:
        assert run.configuration.hyper is not None
        self.run, self.place, self.clock = run, job.place, clock
        self.hyper, self.start, self.steps, self.longest = run.configuration.hyper, 0.0, 0, 0.0
        self.indices = training_indices(run)
        self._tried: dict[Hyperparameters, float] = {}

    def largest_batch(self, seconds: float) -> int:
        """Return the largest batch of which a few steps can be measured in `seconds`."""
        whole = self.hyper.batch_size
        size = min(whole, FIRST_BATCH)
        while size < whole:
            tried = replace(self.hyper, batch_size=size, views=0, every=1)
            step = self._tried[tried] = self._step(tried, seconds, enough=0.0)
            larger = min(4 * size, whole)
            if (self.place.workers + 2) * step * larger / size > seconds:
                break
            size = larger
        return size

    def pace(self, size: int, seconds: float) -> Pace:
        """Return what the method takes, by `seconds` of batches of `size` pictures."""
        hyper, scale = replace(self.hyper, batch_size=size), self.hyper.batch_size / size
        if hyper.views:
            seconds /= 2
        new = scale * self._mean_step(replace(hyper, views=0), seconds)
        if not hyper.views:
            return Pace(self.start, new, new, steps=self.steps)
        with tempfile.TemporaryDirectory() as folder:
            self.indices = self.indices[:size]  # of which a step has seen all, in one view each
            kept = scale * self._mean_step(replace(hyper, views=1), seconds, Path(folder))
            stored = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        return Pace(self.start, kept, new, stored / len(self.run.task.train_labels), self.steps)

    def _mean_step(self, hyper: Hyperparameters, seconds: float, readings: Path | None = None) -> float:
        """Return the seconds of a step, with its share of the penalty that is not taken at each."""
        always, is_rare = replace(hyper, every=1), hyper.every > 1
        seconds /= 1 + is_rare
        guided = self._tried.get(always, 0.0)
        if 2 * guided <= seconds:
            guided = self._step(always, seconds, readings)
        if not is_rare:
            return guided
        unguided = self._step(replace(hyper, every=NEVER), seconds, readings)
        return unguided + (guided - unguided) / hyper.every

    def _step(
        self,
        hyper: Hyperparameters,
        seconds: float,
        readings: Path | None = None,
        enough: float | None = None,
    ) -> float:
        """Return the seconds of a step, by as many as fill `seconds`, or `enough` of them."""
        c, place, enough = self.run.configuration, self.place, seconds if enough is None else enough
        device, began, times = place.accelerator.device, self.clock(), list[float]()
        model = self.run.start.create(len(self.run.task.classes), hyper.drop_path)
        if not c.fused_attention:
            unfuse_attention(model)

        def note() -> None:
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(self.clock())
            if len(times) == 2 and device.type == "cpu" and times[1] - times[0] >= seconds:
                raise EnoughError
            if len(times) >= 3 + place.workers and times[-1] - times[1] >= enough:
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
                whole=self._related_source(),
                on_start=lambda: times.append(self.clock()),
                on_step=note,
            )
        self.longest = max(self.longest, times[-1] - began)
        counted = times if len(times) == 2 else times[1:]
        self.steps = len(counted) - 1
        mean = (counted[-1] - counted[0]) / self.steps
        self.start = max(0.0, times[1] - began - mean)
        return mean

    def _related_source(self) -> Whole | None:
        """Return what Co-tuning needs, without a look at the pictures: all classes are related alike."""
        c, task, device = self.run.configuration, self.run.task, self.place.accelerator.device
        if not isinstance(target_of(c.method, c.lam), vitreg.CoTuning):
            return None
        source = self.run.start.whole().to(device)
        number = num_outputs(source)
        return Whole(source, torch.full((len(task.classes), number), 1 / number, device=device))


def picture_seconds(run: Run, job: Job, clock: Clock, seconds: float) -> float:
    """Return the seconds of a test picture, from two of them, or more where `seconds` have room for these."""
    task, model = run.task, run.start.create(len(run.task.classes), 0.0)
    each = 0.0
    for number in (FIRST_BATCH, EVALUATED):
        some = slice(number)
        if number * each > seconds:
            break
        masks = None if task.test_masks is None else task.test_masks[some]
        tested = replace(task, test=task.test[some], test_labels=task.test_labels[some], test_masks=masks)
        began = clock()
        evaluate(model, tested, accelerator=job.place.accelerator)
        each = (clock() - began) / len(tested.test_labels)
    return each
