"""Figures of the trained models of each data set and source: where they look, or what else is drawn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from engine.experiment.job import Job, Table
from engine.scripts.console import Results, measure
from engine.scripts.options import TableOptions
from engine.scripts.prepare import prepare
from vitreg.errors import InputError
from vitreg.files import write_atomically
from vitreg.train.attention_overlay import attention_maps, draw_overlays, object_block
from vitreg.train.basics.console import say
from vitreg.train.basics.distributed import on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task, evenly
from vitreg.train.models.start import Start, check_block
from vitreg.train.runs.plan import Run
from vitreg.train.runs.run import stored_model
from vitreg.train.training.methods import SOURCE

TITLES = {SOURCE: "before training", "fine-tune": "fine-tuned", "GTA": "fine-tuned with GTA"}


@dataclass(frozen=True)
class FigureOptions(TableOptions):
    """What the script of a figure is told.

    Attributes:
        pictures: test pictures to draw, by index from 0.
        block: block whose attention is drawn, from 0.
    """

    pictures: Sequence[int] | None = None
    block: int | None = None


@dataclass(frozen=True)
class Models:
    """The models of one data set and source, the source first; `name` is that of their file."""

    name: str
    task: Task
    start: Start
    runs: tuple[Run, ...]


def draw_models(
    table: Table,
    options: FigureOptions,
    progress: Progress,
    *,
    check: Callable[[Task], object],
    draw: Callable[[Models, Job], bytes],
) -> list[str]:
    """Write what `draw` makes of the models of each data set and source, and return what is to be said.

    `check` looks at the pictures of a data set before any training.
    """
    results, found = train_models(table, options, progress, check=check)

    def write(models: Models) -> str:
        path = results.job.place.out / f"{models.name}.png"
        write_atomically(path, draw(models, results.job))
        return str(path)

    written = on_main(lambda: list(map(write, found)))
    return [*results.notes, f"written: {', '.join(written)}"]


def train_models(
    table: Table,
    options: FigureOptions,
    progress: Progress,
    *,
    check: Callable[[Task], object],
    all_seeds: bool = False,
) -> tuple[Results, list[Models]]:
    """Return the runs of the first share, and of the first seed or all, and their models by data and source.

    λ is chosen by all seeds.

    Raises:
        InputError: As `prepare`, there is no such picture or block, or `check` of a data set raises it; all
            of it before any training.
    """
    job = prepare(table, options, progress)
    for start in job.design.starts:
        check_block(start, options.block)
    for task in job.design.tasks:
        check(task)
    seeds = job.design.seeds if all_seeds else job.design.seeds[:1]
    design = replace(job.design, shares=job.design.shares[:1])
    results = measure(job, design, seeds=seeds, keeps_models=True)
    found = []
    for task, start in itertools.product(design.tasks, design.starts):
        fitted = [run for run, _ in results.trained_runs if run.task is task and run.start is start]
        parts = [table.name, task.name if len(design.tasks) > 1 else "", start.label]
        name = "-".join(filter(None, parts))
        found.append(Models(name, task, start, (source_of(fitted[0]), *fitted)))
    return results, found


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
    """Return the indices of `wanted` pictures out of `total`, or of up to `count` taken evenly.

    Raises:
        InputError: There is no such picture.
    """
    indices = list(wanted or evenly(total, at_most=count))
    if not all(0 <= index < total for index in indices):
        raise InputError(f"--pictures lie between 0 and {total - 1}, found {indices}")
    return indices


def draw_attention(table: Table, console: Console, options: FigureOptions, command: str) -> None:
    """Draw where the models of a table look, a file for each data set."""

    def pick(task: Task) -> list[int]:
        return pick_pictures(len(task.test), options.pictures, table.num_pictures)

    def draw(models: Models, job: Job) -> bytes:
        task, block, maps, how = models.task, options.block, {}, {"accelerator": job.place.accelerator}
        pictures = task.test[pick(task)]
        if block is None:
            block = object_block(stored_model(models.runs[0], job.place.out), task, **how)  # the source
        for run in models.runs:
            model = stored_model(run, job.place.out)
            maps[title(run, models.runs)] = attention_maps(model, task.normalise(pictures), block, **how)
        return draw_overlays(pictures, maps, block=block, saturated=0.0)

    with Progress(console) as progress:
        lines = draw_models(table, options, progress, check=pick, draw=draw)
    say(console, *lines)
