"""What trained models are worth on pictures unlike those of the training: the script of `shift.py`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from engine.data.backgrounds import background_tests
from engine.data.tied import Placement, read_placement, tied_folder
from engine.experiment.job import Job, Table
from engine.results.rows import object_block
from engine.results.shift_rows import (
    ORIGINAL,
    OWN,
    UNUSUAL,
    USUAL,
    WORST,
    Measured,
    draw_test_sets,
    notes,
    shift_rows,
    text_table,
)
from engine.scripts.console import measure
from engine.scripts.options import TableOptions, named_places
from engine.scripts.prepare import prepare
from vitreg.errors import InputError
from vitreg.files import write_atomically
from vitreg.train.basics.distributed import gather, on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task
from vitreg.train.data.folder import data_root, read_folder
from vitreg.train.data.test_sets import TestSet
from vitreg.train.runs.plan import Run
from vitreg.train.runs.predictions import stored_right
from vitreg.train.runs.report import Report
from vitreg.train.runs.run import stored_model
from vitreg.train.training.evaluation import evaluate
from vitreg.train.training.methods import SOURCE


@dataclass(frozen=True)
class ShiftOptions(TableOptions):
    """What `shift.py` is told.

    Attributes:
        test: other test pictures, as names of splits in index.csv or as folders with the same classes;
            exchanged backgrounds are added where the objects are known.
        tied: share of each class's training objects on backgrounds of its brightness, in a set that is made
            once of each data set with outlines and kept beside `out`; None for the data sets as they are.
    """

    test: Sequence[str] = ()
    tied: float | None = None


def measure_shift(table: Table, console: Console, options: ShiftOptions, command: str) -> None:
    """Measure each kept model on every test set of its data set."""
    with Progress(console) as progress:
        options, placements = _make_tied_sets(options, progress)
        job = prepare(table, options, progress, tests=options.test)
        tests = {task.name: _tests(task, job, placements) for task in job.design.tasks}
        results = measure(job, job.design, keeps_models=not placements)
        with progress.stage("measuring on the test sets") as update:
            found: list[Measured] = []
            for done, (run, report) in enumerate(trained := results.trained_runs):
                if tied := placements.get(run.task.name):
                    found += _split_tied(report, tied, job)
                else:
                    found += _test_run(run, tests[run.task.name], job)
                update(done + 1, len(trained))
    blocks = {
        (r.configuration.data, results.labels[r.configuration.weights]): object_block([r])
        for r in results.reports
        if r.configuration.method == SOURCE
    }
    body = shift_rows(found, blocks, results.labels)
    for name, sets in tests.items():
        drawn = job.place.out / f"{table.name}-{name}.png"
        on_main(partial(write_atomically, drawn, draw_test_sets(sets)))
    written = ".md, .csv and what the test sets look like, a .png for each data set"
    results.show(console, text_table(body), body, notes(body), command, written=written)


def _make_tied_sets(options: ShiftOptions, progress: Progress) -> tuple[ShiftOptions, dict[str, Placement]]:
    """Return the options with the tied sets in place of the data sets, and where their objects stand.

    Raises:
        InputError: There is no data set to make them of, or other test sets are asked for.
    """
    if options.tied is None:
        return options, {}
    if not options.data or options.test:
        raise InputError("--tied goes with --data that has outlines, and brings its own test pictures")
    cache = (options.out or Path("runs", "tied")).resolve().parent / "cache"
    roots = {}
    for name, place in named_places(options.data).items():
        folder = read_folder(data_root(place, cache, say=progress.say), name=name, say=progress.say)
        made = partial(tied_folder, folder, cache, rate=options.tied)
        roots[f"{name}-tied{100 * options.tied:g}"] = Path(on_main(made))
    data = [f"{name}={root}" for name, root in roots.items()]
    return replace(options, data=data), {name: read_placement(root) for name, root in roots.items()}


def _tests(task: Task, job: Job, placements: dict[str, Placement]) -> list[TestSet]:
    """Return the test sets of a task.

    Raises:
        InputError: There is none.
    """
    if tied := placements.get(task.name):
        usual = torch.tensor(tied.is_usual)
        return [TestSet(name, task.test[which], ()) for name, which in ((USUAL, usual), (UNUSUAL, ~usual))]
    found = [*job.others.get(task.name, {}).values()]
    if task.test_masks is not None:
        found += background_tests(task)
    if not found:
        raise InputError(
            f"{task.name} has no test set of another kind: give --test NAME=DIR or the name of a split, or "
            "boxes or trimaps in index.csv for pictures with other backgrounds"
        )
    return found


def _test_run(run: Run, tests: Sequence[TestSet], job: Job) -> list[Measured]:
    """Return how a run's model does on its own test pictures and each test set; measured once, and kept."""
    c, folder = run.configuration, job.place.out / run.configuration.folder
    own = stored_right(job.place.out, c)
    found = [] if any(test.name == ORIGINAL for test in tests) else [Measured(c, OWN, len(own), own)]
    for test in tests:
        kept = folder / f"tested-{test.fingerprint[:12]}.json"
        if not kept.is_file():
            on_main(partial(write_atomically, kept, json.dumps(_test_once(run, test, job))))
        said = json.loads(kept.read_text())
        objects = torch.tensor(test.groups or range(len(test.labels)))
        # Pictures of one object are not independent of each other.
        each = _by_object(torch.tensor(said["right"]), objects)
        found.append(Measured(c, test.name, len(test.labels), each, said["object_share"], beside=test.beside))
    return found


def _test_once(run: Run, test: TestSet, job: Job) -> dict[str, Any]:
    """Return which pictures of a test set a run's model has right, and its attention on objects, by block."""
    logits: list[Tensor] = []
    metrics = evaluate(
        stored_model(run, job.place.out),
        test.task(run.task),
        accelerator=job.place.accelerator,
        on_logits=logits.append,
    )
    every = torch.cat([part for each in gather(logits) for part in each])  # the processes' in order
    right = (every.argmax(1) == torch.tensor(test.labels)).tolist()
    return {"right": right, "object_share": metrics.get("object_share", [])}


def _split_tied(report: Report, tied: Placement, job: Job) -> list[Measured]:
    """Return how a run did on its tied set's test pictures, by the background that they stand on."""
    c, objects = report.configuration, torch.tensor(tied.objects)
    right = torch.tensor(stored_right(job.place.out, c))
    found = [Measured(c, OWN, len(right), _by_object(right, objects), report.metrics.get("object_share", ()))]
    usual = torch.tensor(tied.is_usual)
    for name, which, beside in ((USUAL, usual, ""), (UNUSUAL, ~usual, USUAL)):
        found.append(
            Measured(c, name, int(which.sum()), _by_object(right[which], objects[which]), beside=beside)
        )
    worst = Measured(c, WORST, len(right), right.float().tolist(), cells=tied.cells, objects=tied.objects)
    return [*found, worst]


def _by_object(right: Tensor, objects: Tensor) -> list[float]:
    """Return the share of each object's pictures that were right."""
    _, places = objects.unique(return_inverse=True)
    return (torch.bincount(places, right.float()) / torch.bincount(places)).tolist()
