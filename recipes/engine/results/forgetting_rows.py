"""From what fine-tuned models still know of the source's task to the rows of a table, a picture, and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from engine.results.intervals import gain_cells, picture_interval
from engine.results.plots import as_png
from engine.results.rows import WORDS, first_columns, mean_std
from engine.results.run_lines import row_groups
from vitreg.plot.curves import curve
from vitreg.plot.style import looks, panels, plain
from vitreg.train.basics.tables import TextTable, number
from vitreg.train.runs.report import Configuration


@dataclass(frozen=True)
class Forgotten:
    """What one model still knows.

    Attributes:
        top1: of its own task, in percent.
        right: whether each of the source's pictures is right by the source's head on the model's body.
        source: the same of the source itself.
        neighbours: which share of the ten nearest pictures is the same as in the source.
        cka: how alike the features are.
        drift: how far the attention has moved, mean over the blocks.
        curve: points (α, top-1 of the own task, top-1 of the source's) from the training's start to its end.
    """

    configuration: Configuration
    top1: float
    right: Sequence[bool]
    source: Sequence[bool]
    neighbours: float
    cka: float
    drift: float
    curve: Sequence[tuple[float, ...]] = ()


@dataclass(frozen=True)
class ForgottenRow:
    """A method: top-1 of the new and of the source's task in percent, and how much of the features is kept.

    `lost` is what the source had more of its own task, from `lost_low` to `lost_high` with 95 %.
    """

    data: str
    source: str
    share: str
    method: str
    lam: float | None
    num_seeds: int
    top1: float
    std: float | None
    old_top1: float
    lost: float
    lost_low: float
    lost_high: float
    neighbours: float
    cka: float
    drift: float


def forgotten_rows(found: Sequence[Forgotten], labels: Mapping[str, str]) -> list[ForgottenRow]:
    """Return a row for each data set, source, share, method and λ, in the order in which they come.

    `labels` name the sources by the fingerprints of their weights.
    """
    rows = []
    for key, group in row_groups(found, labels).items():
        top1 = [one.top1 for one in group]
        now = {one.configuration.seed: one.right for one in group}
        before = {one.configuration.seed: one.source for one in group}
        interval = picture_interval(now, before)
        assert interval is not None
        old, source = (100 * fmean(map(fmean, side.values())) for side in (now, before))
        rows.append(
            ForgottenRow(  # type: ignore[misc]  # the key has as many parts as come first
                *key,
                num_seeds=len(group),
                top1=fmean(top1),
                std=mean_std(top1)[1],
                old_top1=old,
                lost=old - source,
                lost_low=interval.low,
                lost_high=interval.high,
                neighbours=100 * fmean(one.neighbours for one in group),
                cka=fmean(one.cka for one in group),
                drift=fmean(one.drift for one in group),
            )
        )
    return rows


def text_table(rows: Sequence[ForgottenRow]) -> TextTable:
    """Return the rows as text."""
    columns = {
        **first_columns(rows),
        "new top-1": [number(row.top1, std=row.std) for row in rows],
        "old top-1": [number(row.old_top1) for row in rows],
        "lost": gain_cells(rows, "lost"),
        "neighbours": [number(row.neighbours) for row in rows],
        "CKA": [number(row.cka, digits=2) for row in rows],
        "drift": [number(row.drift, digits=3) for row in rows],
    }
    return TextTable(columns, WORDS, ("data", "trained on", "seeds"), ("data", "source", "trained on"))


def notes(num_pictures: int) -> list[str]:
    """Return what has to be said below the table for it to be read rightly."""
    return [
        "new: mean ± standard deviation over the seeds, on the test pictures of the data set.",
        f"old: the source's own head on the trained body, on {num_pictures} pictures of the source's task; "
        "lost: less what the source has there, in brackets the 95 % interval of the paired difference.",
        "neighbours: which share of each such picture's ten nearest is the same as in the source, in "
        "percent; CKA: how alike the features are, at most 1; drift: which share of the [CLS] attention "
        "looks elsewhere, mean over the blocks.",
    ]


def draw(found: Sequence[Forgotten], labels: Mapping[str, str], title: str) -> bytes:
    """Return a PNG file: new against old top-1 from each training's start to its end, mean over seeds."""
    groups = {key: group for key, group in row_groups(found, labels).items() if group[0].curve}
    sets = list(dict.fromkeys(key[:3] for key in groups))
    figure, grid = panels(len(sets), 1, size=(5.8, 3.1))
    for (axes,), (data, source, share) in zip(grid, sets, strict=True):
        own = {key: group for key, group in groups.items() if key[:3] == (data, source, share)}
        for (key, group), (colour, marker) in zip(own.items(), looks(len(own)), strict=True):
            points = [
                (fmean(at[2] for at in moment), fmean(at[1] for at in moment))
                for moment in zip(*(one.curve for one in group), strict=True)
            ]
            *_, method, lam = key
            label = method if lam is None else f"{method} (λ = {lam:g})"
            curve(axes, points, label=label, colour=colour, marker=marker)
        from_source = f" from {source}" if source else ""
        axes.set_title(plain(f"{data}{from_source}, {share}: new top-1, %"), fontsize=10, loc="left")
        axes.set_xlabel("top-1 of the source's own task, %")
    return as_png(figure, title)
