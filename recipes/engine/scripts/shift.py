"""What trained models are worth on pictures unlike those of the training: the script of `shift.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console
from torch import Tensor

from engine.data.backgrounds import background_tests
from engine.experiment.job import Job, Table
from engine.results.rows import object_block
from engine.results.shift_rows import ShiftRow, Tested, notes, shift_rows, text_table
from engine.results.test_pictures import draw_test_sets
from engine.scripts.console import Main, describe_machines, describe_runs, measure, script, show_table
from engine.scripts.options import TableOptions
from engine.scripts.prepare import prepare
from vitreg.errors import InputError
from vitreg.files import write_atomically
from vitreg.train.basics.distributed import gather, on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.basics.tables import csv_of
from vitreg.train.data.dataset import Task
from vitreg.train.data.test_sets import TestSet
from vitreg.train.runs.plan import Run
from vitreg.train.runs.predictions import stored_right
from vitreg.train.runs.run import stored_model
from vitreg.train.training.evaluation import evaluate
from vitreg.train.training.methods import SOURCE

OWN = "own test pictures"


@dataclass(frozen=True)
class ShiftOptions(TableOptions):
    """What `shift.py` is told.

    Attributes:
        test: other test pictures, as names of splits in index.csv or as folders with the same classes;
            exchanged backgrounds are added where the objects are known.
    """

    test: Sequence[str] = ()


def shift_script(table: Table, description: str | None) -> Main:
    """Return the `main` of `shift.py`: each kept model on every test set of its data set."""

    def work(console: Console, options: ShiftOptions, command: str) -> None:
        with Progress(console) as progress:
            job = prepare(table, options, progress, tests=options.test)
            tests = {task.name: _tests(task, job) for task in job.design.tasks}
            runs, reports, chosen = measure(job, job.design, keeps_models=True)
            trained = [run for run in runs if run.configuration.method != SOURCE]
            with progress.stage("measuring on the test sets") as update:
                found = []
                for done, run in enumerate(trained):
                    found += _test_run(run, tests[run.task.name], job)
                    update(done + 1, len(trained))
        sources = {r.configuration.data: r for r in reports if r.configuration.method == SOURCE}
        blocks = {name: object_block([sources[name]] if name in sources else []) for name in tests}
        body = shift_rows(found, blocks)
        below = [*notes(body), *describe_runs(job, reports, chosen)]
        stored = [*below, *describe_machines(reports)]
        place, numbers, text = job.place.out / table.name, csv_of(ShiftRow, body), text_table(body)
        for name, sets in tests.items():
            drawn = place.with_name(f"{table.name}-{name}.png")
            on_main(partial(write_atomically, drawn, draw_test_sets(sets)))
        title = job.title
        on_main(lambda: show_table(console, place, title, text, below, numbers, command, stored=stored))
        written = f"written: {place}.md, .csv and what the test sets look like, a .png for each data set"
        console.print(written, markup=False, soft_wrap=True)

    return script(ShiftOptions, table.name, description, work)


def _tests(task: Task, job: Job) -> list[TestSet]:
    """Return the test sets of a task.

    Raises:
        InputError: There is none.
    """
    found = [*job.others.get(task.name, {}).values()]
    if task.test_masks is not None:
        found += background_tests(task)
    if not found:
        raise InputError(
            f"{task.name} has no test set of another kind: give --test NAME=DIR or the name of a split, or "
            "boxes or trimaps in index.csv for pictures with other backgrounds"
        )
    return found


def _test_run(run: Run, tests: Sequence[TestSet], job: Job) -> list[Tested]:
    """Return how a run's model does on its own test pictures and on each test set."""
    c = run.configuration
    own = stored_right(job.place.out / c.folder)
    found = [Tested(c, OWN, len(own), own)]
    model = stored_model(run, job.place.out)
    for test in tests:
        logits: list[Tensor] = []
        metrics = evaluate(
            model, test.task(run.task), accelerator=job.place.accelerator, on_logits=logits.append
        )
        every = torch.cat([part for each in gather(logits) for part in each])  # the processes' in order
        right = (every.argmax(1) == torch.tensor(test.labels)).float()
        if test.groups:  # pictures of one object are not independent of each other
            groups = torch.tensor(test.groups)
            right = torch.bincount(groups, right) / torch.bincount(groups)
        shares = metrics.get("object_share", ())
        found.append(Tested(c, test.name, len(test.labels), right.tolist(), shares))
    return found
