"""How well the attention of trained models covers objects: the scripts of table 4 and figure 3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from rich.console import Console

import vitreg
from engine.data.scenes import Scenes, task_scenes, voc_scenes
from engine.experiment.job import Job, Table
from engine.results.segmentation.jaccard import Segmentation, mask_jaccard, masks_of, segmentation_jaccard
from engine.results.segmentation.picture import draw_segmentation
from engine.results.segmentation.table import SegmentationRow, notes, segmentation_rows, text_table
from engine.scripts.figure import FigureOptions, Models, draw_models, pick_pictures, title, train_models
from vitreg.errors import InputError
from vitreg.train.basics.console import say
from vitreg.train.basics.distributed import on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task
from vitreg.train.data.official import unpack_official
from vitreg.train.data.official.voc import VOC, read_voc
from vitreg.train.runs.run import stored_model
from vitreg.train.training.attention_metrics import MASS


@dataclass(frozen=True)
class SegmentationOptions(FigureOptions):
    """What the scripts of table 4 and figure 3 are told.

    Attributes:
        voc: folder or archive of PASCAL VOC 2012 to measure on; None for the test pictures of each data set.
        mass: share of the attention that the attended patches hold.
    """

    voc: Path | None = None
    mass: float = MASS


def measure_segmentation(table: Table, console: Console, options: SegmentationOptions, command: str) -> None:
    """Measure the models' attention against the objects, in the first share: table 4."""
    with Progress(console) as progress:
        scenes_of = _open_scenes(options, progress)
        results, found = train_models(table, options, progress, check=scenes_of, all_seeds=True)
        job = results.job
        body = on_main(
            lambda: [row for models in found for row in _rows(models, scenes_of(models.task), job, options)]
        )
    title = f"{job.title}, trained on {job.design.shares[0]}"
    results.show(console, text_table(body), body, notes(body), command, written=".md, .csv", title=title)


def draw_segmentations(table: Table, console: Console, options: SegmentationOptions, command: str) -> None:
    """Draw what the models' attention covers, a file for each data set: figure 3."""

    def pick(task: Task) -> list[int]:
        return _pick_scenes(scenes_of(task), options, table.num_pictures)

    def draw(models: Models, job: Job) -> bytes:
        return _draw(models, scenes_of(models.task), pick(models.task), job, options)

    with Progress(console) as progress:
        scenes_of = _open_scenes(options, progress)
        lines = draw_models(table, options, progress, check=pick, draw=draw)
    say(console, *lines)


def _open_scenes(options: SegmentationOptions, progress: Progress) -> Callable[[Task], Scenes]:
    """Return what gives the pictures that a task's models are measured on; those of VOC are opened once."""
    if options.voc is None:
        if options.preset == "paper":
            raise InputError(f"missing: PASCAL VOC 2012 to measure on (--voc DIR). {VOC.advice}")
        return task_scenes
    pictures = read_voc(unpack_official(options.voc, VOC.name, say=progress.say))

    @cache
    def open_at(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Scenes:
        with progress.stage("reading the pictures of VOC") as update:
            return voc_scenes(pictures, size=size, mean=mean, std=std, on_picture=update)

    return lambda task: open_at(task.size, task.mean, task.std)


def _pick_scenes(scenes: Scenes, options: SegmentationOptions, count: int) -> list[int]:
    """Return the pictures of a figure: those that are asked for, or some, taken evenly, that show an object.

    Raises:
        InputError: There is no such picture, or it shows no object.
    """
    has_object = scenes.masks.flatten(1).any(1)
    if options.pictures:
        indices = pick_pictures(len(scenes.pictures), options.pictures, count)
        if empty := [index for index in indices if not has_object[index]]:
            raise InputError(f"no head is best where there is no object; leave out --pictures {empty}")
        return indices
    known = has_object.nonzero().flatten().tolist()
    if not known:
        raise InputError(f"none of the {len(scenes.pictures)} pictures of {scenes.name} shows an object")
    return [known[place] for place in pick_pictures(len(known), None, count)]


def _block(models: Models, options: SegmentationOptions) -> int:
    """Return the block that is looked at: the last, as in DINO, unless the options say otherwise."""
    if options.block is not None:
        return options.block
    return vitreg.describe(models.start.create(2, 0.0)).num_blocks - 1


def _rows(models: Models, scenes: Scenes, job: Job, options: SegmentationOptions) -> list[SegmentationRow]:
    block, accelerator = _block(models, options), job.place.accelerator
    found: dict[str, list[Segmentation]] = {}
    with job.place.progress.stage(f"measuring on {scenes.name}") as update:
        for number, run in enumerate(models.runs):
            model = stored_model(run, job.place.out)
            measured = segmentation_jaccard(model, scenes, block, accelerator=accelerator, mass=options.mass)
            found.setdefault(title(run, models.runs, {}), []).append(measured)
            update(number + 1, len(models.runs))
    rows = segmentation_rows(scenes.name, found, block=block, mass=options.mass)
    if scenes.name == VOC.name:
        rows = [replace(row, data=f"{VOC.name}, after {models.task.name}") for row in rows]
    return rows


def _draw(
    models: Models, scenes: Scenes, indices: list[int], job: Job, options: SegmentationOptions
) -> bytes:
    block, accelerator, masks, scores = _block(models, options), job.place.accelerator, {}, {}
    for run in models.runs:
        model, name = stored_model(run, job.place.out), title(run, models.runs)
        masks[name] = masks_of(model, scenes, indices, block, accelerator=accelerator, mass=options.mass)
        scores[name] = mask_jaccard(masks[name], scenes, indices)
    caption = (
        f"patches that hold {100 * options.mass:g} % of the class token's attention, best head of block "
        f"{block}, and their Jaccard index with the outlined object"
    )
    return draw_segmentation(scenes.pictures[indices], scenes.masks[indices], masks, scores, caption=caption)
