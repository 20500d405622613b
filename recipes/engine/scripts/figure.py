"""Where models look, as pictures: the source and each method's model, on pictures of every data set."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from rich.console import Console

from engine.experiment.job import Job, Table
from engine.scripts.models import Models, chosen_pictures, figure_parser, title, trained
from vitreg.files import write_atomically
from vitreg.train.attention_overlay import attention_maps, draw_overlays, object_block
from vitreg.train.basics.console import exit_code
from vitreg.train.basics.distributed import on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task
from vitreg.train.runs.run import stored_model


def run_figure(
    table: Table, *, description: str, num_pictures: int, argv: Sequence[str] | None = None
) -> int:
    """Draw where the models of a figure's script look, a file for each data set, and return the exit code."""

    def script(console: Console) -> None:
        options = figure_parser(table.name, description, table.select).parse_args(argv)
        with Progress(console) as progress:

            def check(task: Task) -> None:
                chosen_pictures(len(task.test), options.pictures, num_pictures)

            job, found = trained(table, options, progress, check=check)
            written = on_main(lambda: [_written(models, job, options, num_pictures) for models in found])
        for note in job.notes:
            console.print(note, markup=False, highlight=False)
        console.print(f"written: {', '.join(written)}", markup=False, soft_wrap=True)

    return exit_code(script)


def _written(models: Models, job: Job, options: Namespace, num_pictures: int) -> str:
    path = job.out / f"{models.name}.png"
    write_atomically(path, _drawn(models, job, options, num_pictures))
    return str(path)


def _drawn(models: Models, job: Job, options: Namespace, num_pictures: int) -> bytes:
    task, block, maps = models.task, options.block, {}
    indices = chosen_pictures(len(task.test), options.pictures, num_pictures)
    for run in models.runs:
        model = stored_model(run, job.out)
        if block is None:  # the source's, which comes first
            block = object_block(model, task, accelerator=job.accelerator)
        maps[title(run, models.runs)] = attention_maps(
            model, task, indices, block, accelerator=job.accelerator
        )
    return draw_overlays(task.test[indices], maps, block=block, saturated=0.0)
