"""How well the attention of trained models covers objects: the scripts of table 4 and figure 3."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

import vitreg
from engine.data.scenes import Scenes, task_scenes, voc_scenes
from engine.experiment.job import Job, Table
from engine.results.segmentation.jaccard import mask_jaccard, masks_of, segmentation_jaccard
from engine.results.segmentation.picture import draw_segmentation
from engine.results.segmentation.table import SegmentationRow, notes, segmentation_rows, text_table
from engine.scripts.console import Main, show_table
from engine.scripts.models import (
    Models,
    figure_parser,
    figure_script,
    pick_pictures,
    title,
    train_models,
)
from engine.scripts.options import rate
from vitreg.errors import InputError
from vitreg.files import write_atomically
from vitreg.train.basics.console import exit_code
from vitreg.train.basics.distributed import on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.basics.tables import csv_of
from vitreg.train.data.dataset import Task
from vitreg.train.data.official import unpack_official
from vitreg.train.data.official.voc import VOC, read_voc
from vitreg.train.runs.run import stored_model
from vitreg.train.training.attention_metrics import MASS


def segmentation_table_script(table: Table, description: str | None) -> Main:
    """Return the `main` of table 4: the models' attention against the objects, in the first share."""

    def main(argv: Sequence[str] | None = None) -> int:
        """Run the script on the command line's options, or `argv`, and return its exit code."""

        def script(console: Console) -> None:
            options = _parser(table, description).parse_args(argv)
            with Progress(console) as progress:
                job, found, scenes = _prepare(table, options, progress, all_seeds=True)
                rows = partial(_rows, known=scenes, job=job, options=options, progress=progress)
                body = on_main(lambda: [row for models in found for row in rows(models)])
            title, below = f"{job.title}, trained on {job.design.shares[0]}", [*notes(body), *job.notes]
            place, numbers = job.out / table.name, csv_of(SegmentationRow, body)
            text = text_table(body)
            on_main(lambda: show_table(console, place, title, text, below, numbers, below, argv))
            console.print(f"written: {place}.md, .csv", markup=False, soft_wrap=True)

        return exit_code(script)

    return main


def segmentation_figure_script(table: Table, description: str | None, *, num_pictures: int) -> Main:
    """Return the `main` of figure 3: what the models' attention covers, a file for each data set."""

    def draw(options: Namespace, progress: Progress) -> tuple[Job, list[str]]:
        job, found, scenes = _prepare(table, options, progress, num_pictures=num_pictures)
        one = partial(_draw, scenes=scenes, job=job, options=options, num_pictures=num_pictures)
        return job, on_main(lambda: [one(models) for models in found])

    return figure_script(table, lambda: _parser(table, description), draw)


def _parser(table: Table, description: str | None) -> ArgumentParser:
    options = figure_parser(table, description)
    voc = "PASCAL VOC 2012, or its archive, to measure on; without: each data set's own test pictures"
    options.add_argument("--voc", type=Path, metavar="DIR", help=voc)
    mass = f"of the attention that the patches hold which count as attended ({MASS:g})"
    options.add_argument("--mass", type=rate, default=MASS, metavar="SHARE", help=mass)
    return options


def _prepare(
    table: Table,
    options: Namespace,
    progress: Progress,
    *,
    all_seeds: bool = False,
    num_pictures: int = 0,
) -> tuple[Job, list[Models], dict[str, Scenes]]:
    """Return the trained models, and for each data set what they are measured on, which is opened first."""
    if options.voc is None and options.preset == "paper":
        raise InputError(f"missing: PASCAL VOC 2012 to measure on (--voc DIR). {VOC.advice}")
    pictures = (
        [] if options.voc is None else read_voc(unpack_official(options.voc, VOC.name, say=progress.say))
    )
    scenes: dict[str, Scenes] = {}

    def check(task: Task) -> None:
        same = [known for known in scenes.values() if known.name == VOC.name]
        if options.voc is None:
            scenes[task.name] = task_scenes(task)
        elif same:  # all tasks of a table have one size and normalisation
            scenes[task.name] = same[0]
        else:
            with progress.stage("reading the pictures of VOC") as update:
                scenes[task.name] = voc_scenes(
                    pictures, size=task.size, mean=task.mean, std=task.std, on_picture=update
                )
        if num_pictures:
            _pick_scenes(scenes[task.name], options, num_pictures)

    return *train_models(table, options, progress, all_seeds=all_seeds, check=check), scenes


def _pick_scenes(scenes: Scenes, options: Namespace, count: int) -> list[int]:
    """Return the pictures of a figure: those that are asked for, or some, taken evenly, that show an object.

    Raises:
        InputError: There is no such picture, or it shows no object.
    """
    has_object = scenes.masks.flatten(1).any(1)
    if options.pictures:
        indices = pick_pictures(len(scenes.pictures), options.pictures, count)
        empty = [index for index in indices if not has_object[index]]
        if empty:
            raise InputError(f"no head is best where there is no object; leave out --pictures {empty}")
        return indices
    known = has_object.nonzero().flatten().tolist()
    if not known:
        raise InputError(f"none of the {len(scenes.pictures)} pictures of {scenes.name} shows an object")
    return [known[place] for place in pick_pictures(len(known), None, count)]


def _block(models: Models, options: Namespace) -> int:
    """Return the block that is looked at: the last, as in DINO, unless the options say otherwise."""
    if options.block is not None:
        return int(options.block)
    return int(vitreg.describe(models.start.create(2, 0.0)).num_blocks) - 1


def _rows(
    models: Models, *, known: Mapping[str, Scenes], job: Job, options: Namespace, progress: Progress
) -> list[SegmentationRow]:
    block, scenes = _block(models, options), known[models.task.name]
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
            found.setdefault(title(run, models.runs, {}), []).append(result)
            update(number + 1, len(models.runs))
    rows = segmentation_rows(scenes.name, found, block=block)
    if scenes.name == VOC.name:
        rows = [replace(row, data=f"{VOC.name}, after {models.task.name}") for row in rows]
    return rows


def _draw(
    models: Models, *, scenes: Mapping[str, Scenes], job: Job, options: Namespace, num_pictures: int
) -> str:
    block, own = _block(models, options), scenes[models.task.name]
    indices = _pick_scenes(own, options, num_pictures)
    masks, scores = {}, {}
    for run in models.runs:
        model, name = stored_model(run, job.out), title(run, models.runs)
        masks[name] = masks_of(model, own, indices, block, accelerator=job.accelerator, mass=options.mass)
        scores[name] = mask_jaccard(masks[name], own, indices)
    caption = (
        f"patches that hold {100 * options.mass:g} % of the class token's attention, best head of block "
        f"{block}, and their Jaccard index with the outlined object"
    )
    path = job.out / f"{models.name}.png"
    drawn = draw_segmentation(own.pictures[indices], own.masks[indices], masks, scores, caption=caption)
    write_atomically(path, drawn)
    return str(path)
