"""Where models look, as pictures: the source and each method's model, on pictures of every data set."""

from __future__ import annotations

from argparse import Namespace

from engine.experiment.job import Job, Table
from engine.scripts.console import Main
from engine.scripts.models import (
    Models,
    figure_parser,
    figure_script,
    pick_pictures,
    title,
    train_models,
)
from vitreg.files import write_atomically
from vitreg.train.attention_overlay import attention_maps, draw_overlays, object_block
from vitreg.train.basics.distributed import on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task
from vitreg.train.runs.run import stored_model


def attention_figure_script(table: Table, description: str | None, *, num_pictures: int) -> Main:
    """Return the `main` of a figure's script: where its models look, a file for each data set."""

    def draw(options: Namespace, progress: Progress) -> tuple[Job, list[str]]:
        def check(task: Task) -> None:
            pick_pictures(len(task.test), options.pictures, num_pictures)

        job, found = train_models(table, options, progress, check=check)
        return job, on_main(lambda: [_write(models, job, options, num_pictures) for models in found])

    return figure_script(table, lambda: figure_parser(table, description), draw)


def _write(models: Models, job: Job, options: Namespace, num_pictures: int) -> str:
    path = job.out / f"{models.name}.png"
    write_atomically(path, _draw(models, job, options, num_pictures))
    return str(path)


def _draw(models: Models, job: Job, options: Namespace, num_pictures: int) -> bytes:
    task, block, maps = models.task, options.block, {}
    indices = pick_pictures(len(task.test), options.pictures, num_pictures)
    for run in models.runs:
        model = stored_model(run, job.out)
        if block is None:  # the source's, which comes first
            block = object_block(model, task, accelerator=job.accelerator)
        maps[title(run, models.runs)] = attention_maps(
            model, task, indices, block, accelerator=job.accelerator
        )
    return draw_overlays(task.test[indices], maps, block=block, saturated=0.0)
