"""What is tried on a folder of pictures: each trial trained on all training pictures, or but for a fold."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch

from vitreg.functional import stratified_folds
from vitreg.train.basics.distributed import gather
from vitreg.train.data.dataset import Task
from vitreg.train.data.samples import copies_of
from vitreg.train.data.subset import Share
from vitreg.train.labelled_folder import Pictures
from vitreg.train.options import FinetuneOptions
from vitreg.train.runs.execution import execute
from vitreg.train.runs.plan import Design, Run, plan
from vitreg.train.runs.predictions import stored_right
from vitreg.train.runs.report import Report
from vitreg.train.runs.run import trained_model
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training.methods import METHODS, SOURCE
from vitreg.train.training.state import DivergenceError

TIMED_STEPS = 4
"""Steps by which the time of a training is estimated; the first is left out."""


@dataclass(frozen=True)
class Trial:
    """A method with its λ, and its learning rate, None for a method that trains nothing by gradients."""

    method: str
    lam: float | None = None
    lr: float | None = None

    def __str__(self) -> str:
        """The trial for the person who waits for it."""
        if not METHODS[self.method].is_trained:
            return "linear probe"
        name = self.method.removeprefix("LP-FT+") if METHODS[self.method].head == "probe" else self.method
        kind = "no guide" if name in ("LP-FT", "fine-tune") else name
        lam = "" if self.lam is None else f", λ = {self.lam:g}"
        head = "" if METHODS[self.method].head == "probe" else ", new head"
        return f"{kind}{lam}, lr {self.lr:g}{head}"


PROBE = Trial("linear-probe")


class OnFold(NamedTuple):
    """What a fold says of a trial: for each picture whether it was right, and their mean cross-entropy."""

    right: tuple[bool, ...]
    loss: float


@dataclass(frozen=True)
class Trials:
    """The runs of trials on one folder of pictures; what is finished is not run again."""

    pictures: Pictures
    options: FinetuneOptions
    place: Workplace

    @cached_property
    def folds(self) -> list[Task]:
        """The folds, in which each training picture is held out once; none where a class has one picture."""
        number = num_possible_folds(self.pictures.task, self.options.folds)
        return fold_tasks(self.pictures.task, number) if number else []

    def trained_on_all(self, trials: Sequence[Trial]) -> list[tuple[Run, Report]]:
        """Return the runs on all training pictures, whose models are kept, and their reports."""
        runs = [self._run(trial, self.pictures.task, Share(rate=1.0)) for trial in trials]
        reports = execute(runs, replace(self.place, keeps_models=True))
        return list(zip(runs, reports, strict=True))

    def on_folds(self, trials: Sequence[Trial], folds: Sequence[int]) -> list[list[OnFold]]:
        """Return how each trial does on each of the folds, trained without it.

        Raises:
            DivergenceError: A training diverged.
        """
        runs = [self._fold_run(trial, fold) for trial in trials for fold in folds]
        reports = execute(runs, self.place)
        found = [
            OnFold(stored_right(self.place.out, report.configuration), report.metrics["loss"])
            for report in reports
        ]
        return [found[start : start + len(folds)] for start in range(0, len(runs), len(folds))]

    def on_fold(self, trials: Sequence[Trial], fold: int) -> list[OnFold]:
        """Return how each trial does on a fold; one that diverges, which is said, is never right."""
        try:
            return [found for (found,) in self.on_folds(trials, [fold])]
        except DivergenceError as error:
            if len(trials) > 1:  # those that are finished are not run again
                return [found for trial in trials for found in self.on_fold([trial], fold)]
            self.place.progress.say(f"{trials[0]}: {error}")
            return [OnFold((False,) * len(self.folds[fold].test_labels), math.inf)]

    def seconds_per_fold(self, trial: Trial) -> float:
        """Return how long the training of a trial on a fold takes, by its first steps; nothing is stored."""
        run = self._fold_run(trial, 0)
        hyper = run.configuration.hyper
        if hyper is None:
            return 0.0
        short = replace(run.configuration, hyper=replace(hyper, steps=TIMED_STEPS))
        moments: list[float] = []
        trained_model(
            replace(run, configuration=short),
            accelerator=self.place.accelerator,
            workers=self.place.workers,
            on_step=lambda: moments.append(time.monotonic()),
        )
        between = [after - before for before, after in itertools.pairwise(moments)]
        return gather(statistics.median(between) * hyper.steps)[0]

    def _fold_run(self, trial: Trial, fold: int) -> Run:
        task = self.folds[fold]
        (name,) = task.lists
        return self._run(trial, task, Share(files=name))

    def _run(self, trial: Trial, task: Task, share: Share) -> Run:
        num_all = len(task.train_labels)
        num_used = num_all if share.files is None else len(task.lists[share.files])
        hyper = self.options.hyper(num_all, share=num_used / num_all)
        design = Design(
            (task,),
            (self.pictures.start,),
            methods=(trial.method,),
            lams={} if trial.lam is None else {trial.method: (trial.lam,)},
            shares=(share,),
            seeds=(self.options.seed,),
            hyper=hyper if trial.lr is None else replace(hyper, lr=trial.lr),
            augment=self.options.augment,
            precision=self.place.accelerator.mixed_precision,
            fused_attention=self.options.fused_attention == "yes",
        )
        (run,) = (run for run in plan(design) if run.configuration.method != SOURCE)
        return run


def trial_of(options: FinetuneOptions) -> Trial:
    """Return the trial that the options name."""
    method = options.used_method
    return Trial(method, options.used_lam, options.lr) if METHODS[method].is_trained else Trial(method)


def num_possible_folds(task: Task, wanted: int) -> int:
    """Return how many folds there can be, at most `wanted`: 0 where a class has a single picture."""
    copies = copies_of(task.train_digests, range(len(task.train_labels)))
    counts = Counter(label for index, label in enumerate(task.train_labels) if index not in copies)
    smallest = min(counts[label] for label in range(len(task.classes)))
    return min(wanted, smallest) if smallest > 1 else 0


def fold_tasks(task: Task, num_folds: int) -> list[Task]:
    """Return a task for each fold: measured on the fold's pictures, trained on the list of all others.

    Each training picture is in one fold, and the classes have equal parts in all of them. Copies of a picture
    are in its fold, so that nothing is measured on what was trained on. The list is the only one of the task.
    """
    indices = range(len(task.train_labels))
    copies = copies_of(task.train_digests, indices)
    originals = [index for index in indices if index not in copies]
    folds = stratified_folds(torch.tensor([task.train_labels[index] for index in originals]), num_folds)
    fold_of = dict(zip(originals, folds.tolist(), strict=True))
    by_digest = {task.train_digests[index]: fold for index, fold in fold_of.items()} if copies else {}
    fold_of |= {index: by_digest[task.train_digests[index]] for index in copies}
    tasks = []
    for fold in range(num_folds):
        kept = tuple(index for index in indices if fold_of[index] != fold)
        out = [index for index in indices if fold_of[index] == fold]
        tasks.append(replace(task.held_out(out), lists={f"fold{fold + 1}of{num_folds}": kept}))
    return tasks
