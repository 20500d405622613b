"""The trained models behind a figure: those of each data set and source, kept beside their reports."""

from __future__ import annotations

import itertools
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console

import vitreg
from engine.experiment.job import Job, Table
from engine.scripts.console import Main, describe_runs, measure
from engine.scripts.options import parser
from engine.scripts.prepare import prepare
from vitreg.errors import InputError
from vitreg.train.basics.console import exit_code
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task
from vitreg.train.models.start import Start
from vitreg.train.runs.plan import Run
from vitreg.train.training.methods import SOURCE

TITLES = {SOURCE: "before training", "fine-tune": "fine-tuned", "GTA": "fine-tuned with GTA"}


@dataclass(frozen=True)
class Models:
    """The models of one data set and source, the source first; `name` is that of their file."""

    name: str
    task: Task
    start: Start
    runs: tuple[Run, ...]


def figure_parser(table: Table, description: str | None) -> ArgumentParser:
    """Return the table scripts' parser with the options of a figure."""
    options = parser(table, description)
    options.add_argument("--pictures", nargs="+", type=int, metavar="INDEX", help="by their place, from 0")
    options.add_argument("--block", type=int, help="whose attention is looked at, from 0")
    return options


def figure_script(
    table: Table,
    make_parser: Callable[[], ArgumentParser],
    draw: Callable[[Namespace, Progress], tuple[Job, list[str]]],
) -> Main:
    """Return the `main` of a figure's script: `draw` returns the job and the files that it has written."""

    def main(argv: Sequence[str] | None = None) -> int:
        """Run the script on the command line's options, or `argv`, and return its exit code."""

        def script(console: Console) -> None:
            options = make_parser().parse_args(argv)
            with Progress(console) as progress:
                job, written = draw(options, progress)
            for note in job.notes:
                console.print(note, markup=False, highlight=False)
            console.print(f"written: {', '.join(written)}", markup=False, soft_wrap=True)

        return exit_code(script)

    return main


def train_models(
    table: Table,
    options: Namespace,
    progress: Progress,
    *,
    all_seeds: bool = False,
    check: Callable[[Task], object] = lambda task: None,
) -> tuple[Job, list[Models]]:
    """Return the models of the first share, and of the first seed or all, trained, by data set and source.

    λ is chosen by all seeds. The job's notes say how, and what else has to be said of the runs.

    Raises:
        InputError: As `prepare`, there is no such picture or block, or `check` of a data set raises it; all
            of it before any training.
    """
    job = prepare(table, options, progress=progress)
    for start in job.design.starts:
        depth = vitreg.describe(start.create(2, 0.0)).num_blocks
        if options.block is not None and not 0 <= options.block < depth:
            raise InputError(f"--block {options.block}: {start.name} has blocks 0 to {depth - 1}")
    for task in job.design.tasks:
        check(task)
    seeds = job.design.seeds if all_seeds else job.design.seeds[:1]
    design = replace(job.design, shares=job.design.shares[:1])
    runs, reports, chosen = measure(job, design, options, progress, seeds=seeds, keeps_models=True)
    found = []
    for task, start in itertools.product(design.tasks, design.starts):
        own = [run for run in runs if run.task is task and run.start is start]
        fitted = [run for run in own if run.configuration.method != SOURCE]
        parts = [table.name, task.name if len(design.tasks) > 1 else "", start.label]
        name = "-".join(filter(None, parts))
        found.append(Models(name, task, start, (source_of(fitted[0]), *fitted)))
    return replace(job, notes=describe_runs(job, reports, chosen, options.select)), found


def source_of(run: Run) -> Run:
    """Return the run of the model that `run` started from."""
    c = run.configuration
    bare = replace(c, method=SOURCE, lam=None, share=None, seed=0, hyper=None, hold_out=0.0, measure_every=0)
    return replace(run, configuration=bare)


def title(run: Run, runs: Sequence[Run], names: Mapping[str, str] = TITLES) -> str:
    """Return the method as `names` has it, with λ where `runs` has the method with several."""
    c = run.configuration
    lams = {other.configuration.lam for other in runs if other.configuration.method == c.method}
    return names.get(c.method, c.method) + (f" λ={c.lam:g}" if len(lams) > 1 and c.lam is not None else "")


def pick_pictures(total: int, wanted: Sequence[int] | None, count: int) -> list[int]:
    """Return the indices of `wanted` pictures out of `total`, or of `count` taken evenly.

    Raises:
        InputError: There is no such picture.
    """
    count = min(count, total)
    indices = list(wanted or [int((place + 0.5) * total / count) for place in range(count)])
    if not all(0 <= index < total for index in indices):
        raise InputError(f"--pictures lie between 0 and {total - 1}, found {indices}")
    return indices
