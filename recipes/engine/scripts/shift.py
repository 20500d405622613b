"""What trained models are worth on pictures unlike those of the training: the script of `shift.py`."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial

import torch
from rich.console import Console
from torch import Tensor

from engine.data.backgrounds import background_tests
from engine.experiment.job import Job, Table
from engine.results.rows import object_block
from engine.results.shift_rows import ShiftRow, Tested, notes, shift_rows, text_table
from engine.results.test_pictures import draw_test_sets
from engine.scripts.console import Main, describe_machines, describe_runs, measure, show_table
from engine.scripts.options import parser
from engine.scripts.prepare import prepare
from vitreg.errors import InputError
from vitreg.files import write_atomically
from vitreg.train.basics.console import exit_code
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


def shift_script(table: Table, description: str | None) -> Main:
    """Return the `main` of `shift.py`: each kept model on every test set of its data set."""

    def main(argv: Sequence[str] | None = None) -> int:
        """Run the script on the command line's options, or `argv`, and return its exit code."""

        def script(console: Console) -> None:
            options = _parser(table, description).parse_args(argv)
            with Progress(console) as progress:
                job = prepare(table, options, progress=progress, tests=options.test)
                tests = {task.name: _tests(task, job) for task in job.design.tasks}
                runs, reports, chosen = measure(job, job.design, options, progress, keeps_models=True)
                trained = [run for run in runs if run.configuration.method != SOURCE]
                with progress.stage("measuring on the test sets") as update:
                    found = []
                    for done, run in enumerate(trained):
                        found += _tested(run, tests[run.task.name], job)
                        update(done + 1, len(trained))
            sources = {r.configuration.data: r for r in reports if r.configuration.method == SOURCE}
            blocks = {name: object_block([sources[name]] if name in sources else []) for name in tests}
            body = shift_rows(found, blocks)
            below = [*notes(body), *describe_runs(job, reports, chosen, options.select)]
            stored = [*below, *describe_machines(reports)]
            place, numbers, text = job.out / table.name, csv_of(ShiftRow, body), text_table(body)
            for name, sets in tests.items():
                drawn = job.out / f"{table.name}-{name}.png"
                on_main(partial(write_atomically, drawn, draw_test_sets(sets)))
            on_main(lambda: show_table(console, place, job.title, text, below, numbers, stored, argv))
            written = f"written: {place}.md, .csv and what the test sets look like, a .png for each data set"
            console.print(written, markup=False, soft_wrap=True)

        return exit_code(script)

    return main


def _parser(table: Table, description: str | None) -> ArgumentParser:
    options = parser(table, description)
    tests = (
        "test pictures of other kinds: splits of index.csv by their names, or folders with the same classes; "
        "where objects are known, exchanged backgrounds come by themselves"
    )
    options.add_argument("--test", nargs="+", default=[], metavar="NAME[=DIR]", help=tests)
    return options


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


def _tested(run: Run, tests: Sequence[TestSet], job: Job) -> list[Tested]:
    """Return how a run's model does on its own test pictures and on each test set."""
    c = run.configuration
    own = stored_right(job.out / c.folder)
    found = [Tested(c, OWN, len(own), own)]
    model = stored_model(run, job.out)
    for test in tests:
        logits: list[Tensor] = []
        metrics = evaluate(model, test.task(run.task), accelerator=job.accelerator, on_logits=logits.append)
        every = torch.cat([part for each in gather(logits) for part in each])  # the processes' in order
        right = (every.argmax(1) == torch.tensor(test.labels)).float()
        if test.groups:  # pictures of one object are not independent of each other
            groups = torch.tensor(test.groups)
            right = torch.bincount(groups, right) / torch.bincount(groups)
        shares = metrics.get("object_share", ())
        found.append(Tested(c, test.name, len(test.labels), right.tolist(), shares))
    return found
