"""Which pictures one fine-tuning trains on and is measured on, and which method a search would use."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.box import HORIZONTALS
from rich.table import Table
from torch import Tensor

import vitreg
from vitreg.errors import InputError
from vitreg.train.basics.progress import Progress
from vitreg.train.confusion_matrix import confused, confusion
from vitreg.train.data.copies import file_digests
from vitreg.train.data.dataset import Task
from vitreg.train.data.folder import read_folder
from vitreg.train.data.samples import Folder, described, imbalance
from vitreg.train.data.subset import split
from vitreg.train.folder_task import folder_task, input_statistics
from vitreg.train.models.start import Start, photographed_start
from vitreg.train.models.stored import Card
from vitreg.train.runs.report import Report
from vitreg.train.settings import Settings
from vitreg.train.training.methods import BASELINE, is_guided


@dataclass(frozen=True)
class Pictures:
    """What is trained on and measured on, and where it starts from.

    `names` are those of the measured pictures, and `measured_on` says what they are.
    """

    task: Task
    names: tuple[str, ...]
    measured_on: str
    start: Start
    card: Card


def photographs(options: Namespace, settings: Settings, progress: Progress) -> Pictures:
    """Return the pictures of `--data`, a part of them held out where there are no test pictures.

    Raises:
        InputError: The pictures or the weights cannot be used.
    """
    folder = read_pictures(options.data, but_not=options.out or Path("runs"))
    progress.say(described(folder, options.data.resolve().name))
    if uneven := imbalance(folder):
        progress.say(uneven)
    start = photographed_start(options.weights, settings.model or "", size=settings.size)
    measured_on = "the test pictures"
    if not folder.test:
        folder = _parted(folder, options.hold_out, seed=options.seed)
        measured_on = "pictures held out from training"
        progress.say(
            f"no test pictures in {folder.root}: {len(folder.test)} pictures are held out to measure on, "
            f"{len(folder.train)} are trained on"
        )
    statistics = input_statistics(options.normalise, settings, progress)
    task = folder_task(folder, options.data.resolve().name, settings, statistics, progress)
    inside = [s.path.is_relative_to(folder.root) for s in folder.test]
    names = tuple(
        str(sample.path.relative_to(folder.root) if is_inside else sample.path)
        for sample, is_inside in zip(folder.test, inside, strict=True)
    )
    size, mean, std = settings.size, statistics.mean, statistics.std
    card = Card(start.name, {"img_size": size}, size, mean, std, folder.classes)
    return Pictures(task, names, measured_on, start, card)


def read_pictures(root: Path, *, but_not: Path | None = None) -> Folder:
    """Return a folder in the tables' layouts, or `train/CLASS` or `CLASS` alone: then without test pictures.

    Raises:
        InputError: As `read_folder`.
    """
    return read_folder(root, needs_test=False, but_not=but_not)


def _parted(folder: Folder, rate: float, *, seed: int) -> Folder:
    labels = [sample.label for sample in folder.train]
    kept, out = split(
        range(len(labels)),
        labels,
        rate,
        seed=seed,
        classes=folder.classes,
        digests=file_digests(folder.train),
    )
    train, test = (tuple(folder.train[index] for index in indices) for indices in (kept, out))
    return replace(folder, train=train, test=test)


def kind(report: Report) -> str:
    """Return method and λ in words."""
    c = report.configuration
    return c.method if c.lam is None else f"{c.method} with λ = {c.lam:g}"


def choose(reports: Sequence[Report]) -> Report:
    """Return the report with the highest top-1; among equals the first, and plain fine-tuning before all."""
    return max(
        sorted(reports, key=lambda report: is_guided(report.configuration.method)),
        key=lambda report: report.metrics["top1"],
    )


def chance(a: float, b: float, num_pictures: int) -> float:
    """Return by how many points two top-1 of equally good models differ by chance: two standard errors."""
    share = (a + b) / 200
    return 200 * math.sqrt(2 * share * (1 - share) / num_pictures)


def verdict(reports: Sequence[Report], num_pictures: int) -> str:
    """Return what to use, and whether it is better than plain fine-tuning as far as the pictures can tell."""
    best = choose(reports)
    plain = next(report for report in reports if report.configuration.method == BASELINE)
    if best is plain:
        return f"use fine-tune: no guide was better on these {num_pictures} pictures"
    a, b = best.metrics["top1"], plain.metrics["top1"]
    noise = chance(a, b, num_pictures)
    said = f"use {kind(best)}: {a - b:.1f} points above plain fine-tuning"
    if a - b <= noise:
        return (
            f"{said}, which is within the noise: on {num_pictures} pictures equally good models differ by up "
            f"to {noise:.1f} points; plain fine-tuning may be as good"
        )
    return f"{said}, more than the {noise:.1f} points of chance on {num_pictures} pictures"


def search_table(reports: Sequence[Report]) -> Table:
    """Return the search for the terminal, in the order in which it ran, the choice marked."""
    plain = next(report for report in reports if report.configuration.method == BASELINE)
    best = choose(reports)
    table = Table(box=HORIZONTALS, pad_edge=False)
    table.add_column("method")
    for name in ("λ", "top-1", "gain"):
        table.add_column(name, justify="right")
    table.add_column("")
    for report in reports:
        c, top1 = report.configuration, report.metrics["top1"]
        lam, gain = "" if c.lam is None else f"{c.lam:g}", f"{top1 - plain.metrics['top1']:+.1f}"
        used = "← used" if report is best else ""
        table.add_row(c.method, lam, f"{top1:.1f}", "" if report is plain else gain, used)
    return table


def check_block(pictures: Pictures, block: int | None) -> None:
    """Refuse, before any training, a `--block` that the model does not have."""
    last = vitreg.describe(pictures.start.create(2, 0.0)).num_blocks - 1
    if block is not None and not 0 <= block <= last:
        raise InputError(f"--block {block}: {pictures.start.name} has blocks 0 to {last}")


def summary(shares: Tensor, report: Report, pictures: Pictures) -> list[str]:
    """Return top-1 with its standard error, and the commonest mistakes, as lines of text."""
    task, top1 = pictures.task, report.metrics["top1"]
    error = math.sqrt(top1 * (100 - top1) / len(task.test))
    said = f"{kind(report)}: top-1 {top1:.1f} % ± {error:.1f} on {pictures.measured_on} ({len(task.test)})"
    if "class_mean" in report.metrics:
        said += f"; balanced accuracy {report.metrics['class_mean']:.1f} %"
    return [
        said,
        *(f"  {mistake}" for mistake in confused(confusion(shares, task.test_labels), task.classes)),
    ]
