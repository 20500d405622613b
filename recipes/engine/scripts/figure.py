"""Where models look, as pictures: the source and each method's model, on pictures of every data set."""

from __future__ import annotations

from collections.abc import Callable

from engine.experiment.job import Job, Table
from engine.scripts.console import Main
from engine.scripts.models import FigureOptions, Models, figure_script, pick_pictures, title
from vitreg.train.attention_overlay import attention_maps, draw_overlays, object_block
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task
from vitreg.train.runs.run import stored_model


def attention_figure_script(table: Table, description: str | None, *, num_pictures: int) -> Main:
    """Return the `main` of a figure's script: where its models look, a file for each data set."""

    def begin(
        options: FigureOptions, progress: Progress
    ) -> tuple[Callable[[Task], object], Callable[[Models, Job], bytes]]:
        def pick(task: Task) -> list[int]:
            return pick_pictures(len(task.test), options.pictures, num_pictures)

        def draw(models: Models, job: Job) -> bytes:
            task, maps, how = models.task, {}, {"accelerator": job.place.accelerator}
            pictures = task.test[pick(task)]
            block = options.block
            if block is None:
                block = object_block(stored_model(models.runs[0], job.place.out), task, **how)  # the source
            for run in models.runs:
                model = stored_model(run, job.place.out)
                maps[title(run, models.runs)] = attention_maps(model, task.normalise(pictures), block, **how)
            return draw_overlays(pictures, maps, block=block, saturated=0.0)

        return pick, draw

    return figure_script(FigureOptions, table, description, begin)
