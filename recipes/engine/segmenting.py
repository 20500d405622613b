"""How well the attention of trained models covers objects: the scripts of table 4 and figure 3."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

import vitreg
from engine.attention import MASS
from engine.cli import exit_code
from engine.draw_segmentation import draw_segmentation
from engine.errors import RecipeError
from engine.job import Job, Table
from engine.models import Models, chosen_pictures, figure_parser, title, trained
from engine.official import unpacked
from engine.official.voc import VOC, read_voc
from engine.options import rate
from engine.processes import on_main
from engine.progress import Progress
from engine.run import stored_model
from engine.runs import write_atomically
from engine.scenes import Scenes, task_scenes, voc_scenes
from engine.segmentation import mask_jaccard, masks_of, segmentation_jaccard
from engine.segmentation_table import (
    SegmentationRow,
    as_csv,
    as_markdown,
    as_rich,
    notes,
    segmentation_rows,
)
from engine.task import Task


def run_segmentation_table(table: Table, *, description: str, argv: Sequence[str] | None = None) -> int:
    """Measure the models' attention against the objects, in the first share, and return the exit code."""

    def script(console: Console) -> None:
        options = _parser(table.name, description).parse_args(argv)
        with Progress(console) as progress:
            job, found = _prepared(table, options, progress, all_seeds=True)
            body = on_main(lambda: [row for one in found for row in _rows(one, job, options, progress)])
        share = job.design.shares[0]
        heading = f"{job.title}, trained on {share}"
        console.print(f"\n{heading}", style="bold", markup=False, highlight=False, soft_wrap=True)
        console.print(as_rich(body))
        for note in notes(body):
            console.print(note, markup=False, highlight=False)
        on_main(lambda: write_atomically(job.out / f"{table.name}.md", as_markdown(body, heading)))
        on_main(lambda: write_atomically(job.out / f"{table.name}.csv", as_csv(body)))
        console.print(f"written: {job.out / table.name}.md, .csv", markup=False, soft_wrap=True)

    return exit_code(script)


def run_segmentation_figure(
    table: Table, *, description: str, num_pictures: int, argv: Sequence[str] | None = None
) -> int:
    """Draw what the models' attention covers, a file for each data set, and return the exit code."""

    def script(console: Console) -> None:
        options = _parser(table.name, description).parse_args(argv)
        with Progress(console) as progress:
            job, found = _prepared(table, options, progress)
            draw = partial(_drawn, job=job, options=options, num_pictures=num_pictures, progress=progress)
            written = on_main(lambda: [draw(models) for models in found])
        console.print(f"written: {', '.join(written)}", markup=False, soft_wrap=True)

    return exit_code(script)


def _parser(name: str, description: str) -> ArgumentParser:
    options = figure_parser(name, description)
    voc = "PASCAL VOC 2012, or its archive, to measure on; without: each data set's own test pictures"
    options.add_argument("--voc", type=Path, metavar="DIR", help=voc)
    mass = f"of the attention that the patches hold which count as attended ({MASS:g})"
    options.add_argument("--mass", type=rate, default=MASS, metavar="SHARE", help=mass)
    return options


def _prepared(
    table: Table, options: Namespace, progress: Progress, *, all_seeds: bool = False
) -> tuple[Job, list[Models]]:
    """Return the trained models; what they are measured on is looked at first, so that nothing is in vain."""
    if options.voc is None and options.preset == "paper":
        raise RecipeError(f"missing: PASCAL VOC 2012 to measure on (--voc DIR). {VOC.advice}")
    num_scenes = None
    if options.voc is not None:
        num_scenes = len(read_voc(unpacked(options.voc, VOC.name, say=progress.say)))

    def check(task: Task) -> None:
        total = len(task_scenes(task).pictures) if num_scenes is None else num_scenes
        chosen_pictures(total, options.pictures, 1)

    return trained(table, options, progress, all_seeds=all_seeds, check=check)


def _scenes(task: Task, options: Namespace, progress: Progress) -> Scenes:
    if options.voc is None:
        return task_scenes(task)
    pictures = read_voc(unpacked(options.voc, VOC.name, say=progress.say))
    with progress.stage("reading the pictures of VOC") as update:
        return voc_scenes(pictures, size=task.size, mean=task.mean, std=task.std, on_picture=update)


def _block(models: Models, options: Namespace) -> int:
    """Return the block that is looked at: the last, as in DINO, unless the options say otherwise."""
    if options.block is not None:
        return int(options.block)
    return int(vitreg.describe(models.start.create(2, 0.0)).num_blocks) - 1


def _rows(models: Models, job: Job, options: Namespace, progress: Progress) -> list[SegmentationRow]:
    block, scenes = _block(models, options), _scenes(models.task, options, progress)
    found: dict[str, list[dict[str, object]]] = {}
    with progress.stage(f"measuring on {scenes.name}") as update:
        for number, run in enumerate(models.runs):
            result = segmentation_jaccard(
                stored_model(run, job.out),
                scenes,
                accelerator=job.accelerator,
                mass=options.mass,
                layers=block,
            )
            found.setdefault(run.configuration.method, []).append(result)
            update(number + 1, len(models.runs))
    rows = segmentation_rows(scenes.name, found, block=block)
    if scenes.name == VOC.name:
        rows = [replace(row, data=f"{VOC.name}, after {models.task.name}") for row in rows]
    return rows


def _drawn(models: Models, *, job: Job, options: Namespace, num_pictures: int, progress: Progress) -> str:
    block, scenes = _block(models, options), _scenes(models.task, options, progress)
    indices = chosen_pictures(len(scenes.pictures), options.pictures, num_pictures)
    indices = [index for index in indices if scenes.masks[index].any()] if not options.pictures else indices
    masks, scores = {}, {}
    for run in models.runs:
        model = stored_model(run, job.out)
        name = title(run)
        masks[name] = masks_of(model, scenes, indices, block, accelerator=job.accelerator, mass=options.mass)
        scores[name] = mask_jaccard(masks[name], scenes, indices)
    caption = (
        f"patches that hold {100 * options.mass:g} % of the class token's attention, best head of block "
        f"{block}, and their Jaccard index with the outlined object"
    )
    path = job.out / f"{models.name}.png"
    drawn = draw_segmentation(scenes.pictures[indices], scenes.masks[indices], masks, scores, caption=caption)
    write_atomically(path, drawn)
    return str(path)
