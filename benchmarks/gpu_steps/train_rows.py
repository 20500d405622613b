"""One of several processes on one card: it takes rows and trains them until the time is up, or fills views.

`gpu_steps.runs` starts it; by hand it is of no use.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from engine.presets import PHOTOS
from gpu_steps.claims import FAILED, FINISHED, UNKNOWN, Claims
from gpu_steps.rows import (
    BATCH_SIZE,
    QUICK_BATCH_SIZE,
    QUICK_VIEWS,
    VIEWS,
    Row,
    read_rows,
)
from gpu_steps.shared_views import SharedViews
from vitreg.files import prepare_out
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task
from vitreg.train.data.folder import read_folder
from vitreg.train.data.photographs import photo_task
from vitreg.train.data.subset import Share, subset
from vitreg.train.models.start import Start, input_statistics, photographed_start
from vitreg.train.runs.plan import Design, Run, plan
from vitreg.train.runs.run import complete
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training.device import make_accelerator
from vitreg.train.training.methods import METHODS

QUICK_TEST = 12
"""Test pictures of a rehearsal."""

MARGIN = 1.3
"""A run is begun if so many times what the last one took is left."""

FIRST = 8.0
"""Seconds that have to be left for a process's first run, of which nothing is known."""


class Pictures:
    """The data sets and the pre-trained model, each read when it is first needed."""

    def __init__(self, options: argparse.Namespace, progress: Progress) -> None:
        self.options, self.progress = options, progress
        self.statistics = input_statistics("imagenet", options.model, options.size, say=progress.say)
        self.views = QUICK_VIEWS if options.quick else VIEWS
        self.tasks: dict[str, Task] = {}

    def task(self, name: str) -> Task:
        """Return a data set, whose training views are shared with the other processes."""
        if name not in self.tasks:
            folder = read_folder(self.options.data / name, name=name)
            task = photo_task(
                folder,
                name=name,
                size=self.options.size,
                augment=PHOTOS.augment,
                statistics=self.statistics,
                progress=self.progress,
            )
            if self.options.quick:
                task = _few(task)
            shared = SharedViews(
                task.train,
                self.options.work / name,
                num_pictures=len(task.train_labels),
                num_views=self.views,
                size=task.size,
            )
            self.tasks[name] = replace(task, train=shared)
        return self.tasks[name]

    def run(self, row: Row, start: Start) -> Run:
        """Return the run of a row."""
        hyper = replace(
            PHOTOS.hyper,
            steps=row.steps,
            batch_size=QUICK_BATCH_SIZE if self.options.quick else BATCH_SIZE,
            views=self.views,
        )
        design = Design(
            (self.task(row.data),),
            (start,),
            methods=(row.method,),
            lams={row.method: () if row.lam is None else (row.lam,)},
            shares=(share_of(row),),
            seeds=(row.seed,),
            hyper=hyper,
            augment=PHOTOS.augment,
            precision="bf16",
        )
        return next(run for run in plan(design) if run.configuration.method == row.method)


def share_of(row: Row) -> Share:
    """Return what a row is trained on."""
    return Share(rate=1.0) if row.shots is None else Share(shots=row.shots)


def _few(task: Task) -> Task:
    """Return the task with a few of its test pictures, evenly spread."""
    places = torch.linspace(0, len(task.test) - 1, min(QUICK_TEST, len(task.test))).long().tolist()
    return replace(
        task,
        test=task.test[places],
        test_labels=tuple(task.test_labels[place] for place in places),
        test_masks=None if task.test_masks is None else task.test_masks[places],
        test_names=tuple(task.test_names[place] for place in places) if task.test_names else (),
    )


def train_rows(rows: Sequence[Row], options: argparse.Namespace, progress: Progress) -> int:
    """Take rows and train them until none is left or no time; return 1 after one that failed."""
    claims, own = Claims(options.work / "claims"), options.work / f"process{options.process}"
    prepare_out(own)
    accelerator = make_accelerator(options.device, "bf16")
    pictures = Pictures(options, progress)
    start = photographed_start(str(options.weights), options.model, size=options.size)
    of_a_step = 0.0
    while True:
        left = options.until - time.monotonic()
        if left < FIRST:
            return 0
        row = claims.next_row(rows, pictures.tasks, options.process)
        if row is None:
            return 0
        if row.method not in METHODS:
            claims.mark(row, UNKNOWN, f"vitreg knows no method {row.method}")
            continue
        if of_a_step * row.steps * MARGIN > left:
            claims.release(row)
            return 0
        began = time.monotonic()
        try:
            run = pictures.run(row, start)
            began = time.monotonic()
            (own / run.configuration.folder).mkdir()
            report = complete(run, Workplace(own, accelerator, 0, progress, checkpoint_seconds=0))
            (own / run.configuration.folder).rename(options.out / run.configuration.folder)
        except Exception as error:
            traceback.print_exc()
            claims.mark(row, FAILED, f"{type(error).__name__}: {error}")
            return 1  # an error of a GPU may stay with its process: another one goes on
        if run.configuration.hyper is not None:
            of_a_step = (time.monotonic() - began) / row.steps
        claims.mark(row, FINISHED)
        print(f"{row.name}: top-1 {report.metrics['top1']:.1f} after {report.seconds:.1f} s", flush=True)


def fill_views(rows: Sequence[Row], options: argparse.Namespace, progress: Progress) -> int:
    """Compute this process's part of all views, in the order in which the rows need them."""
    torch.set_num_threads(1)
    pictures = Pictures(options, progress)
    done: set[tuple[str, int]] = set()
    for row in rows:
        task = pictures.task(row.data)
        assert isinstance(task.train, SharedViews)
        drawn = subset(task, share_of(row), seed=row.seed)
        needed = [index for index in drawn if (row.data, index) not in done]
        done |= {(row.data, index) for index in needed}
        for index in needed[options.process :: options.fillers]:
            if time.monotonic() > options.until:
                return 0
            task.train.fill([index])
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Fill views or train rows, and return the exit code."""
    line = argparse.ArgumentParser(description=__doc__)
    line.add_argument("--fillers", type=int, default=0, help="fill views, as one of so many processes")
    for name, kind in (("process", int), ("until", float), ("size", int), ("model", str), ("device", str)):
        line.add_argument(f"--{name}", type=kind, required=True)
    for name in ("data", "weights", "out", "work", "rows"):
        line.add_argument(f"--{name}", type=Path, required=True)
    line.add_argument("--quick", action="store_true")
    options = line.parse_args(argv)
    rows = read_rows(options.rows)
    with Progress(Console(quiet=True)) as progress:
        return (fill_views if options.fillers else train_rows)(rows, options, progress)


if __name__ == "__main__":
    sys.exit(main())
