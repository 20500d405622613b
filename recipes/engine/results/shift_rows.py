"""From what kept models had right on each test set to the rows of a table, text, and the sets as pictures."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from engine.results.intervals import (
    Interval,
    gain_cells,
    gain_fields,
    picture_interval,
    worst_interval,
    worst_top1,
)
from engine.results.rows import PROBE, WORDS, first_columns, mean_std, object_notes
from engine.results.run_lines import Key, row_groups
from vitreg.plot.pictures import Panel, draw_grid
from vitreg.plot.style import png
from vitreg.train.basics.tables import TextTable, number
from vitreg.train.data.dataset import evenly
from vitreg.train.data.test_sets import TestSet
from vitreg.train.runs.report import Configuration
from vitreg.train.training.methods import BASELINE

OWN, ORIGINAL, USUAL, UNUSUAL, WORST = "own", "original", "usual", "unusual", "worst pair"
"""Names of test sets."""

EXPLAINED = {
    OWN: "own: the data set's own test pictures.",
    "mixed-rand": (
        "original: test pictures whose object is known; only-background: the object taken out; mixed-same, "
        "mixed-rand: each object on three backgrounds of test pictures of its own class, of another."
    ),
    WORST: (
        "usual: test objects on a background as bright as their class mostly has in the training; unusual: "
        "the same objects on the others; worst pair: of a class and a kind of background, for each model; "
        "the interval's draws have a worst of their own, so that it lies low."
    ),
}


@dataclass(frozen=True)
class Measured:
    """What one model had right of a test set, and the share of its attention on the objects, by block.

    `right` is the share of each object's pictures that were right: 0 or 1 where it has one. With `cells` it
    is of each picture, `objects` says what that shows, and top-1 is that of the worst cell. `beside` names
    the test set that shows the same objects as they usually stand, for the change from there.
    """

    configuration: Configuration
    test: str
    num_pictures: int
    right: Sequence[float]
    object_share: Sequence[float] = ()
    cells: Sequence[Hashable] = ()
    objects: Sequence[int] = ()
    beside: str = ""

    @property
    def top1(self) -> float:
        """In percent; where there are cells, of the worst."""
        return worst_top1(self.right, self.cells) if self.cells else 100 * fmean(self.right)


@dataclass(frozen=True)
class ShiftRow:
    """A method on a test set: top-1 and attention on the object in percent, each with a 95 % interval.

    `source` is the label of the weights in a table of several, and `change` the difference to the same models
    on the same objects as they usually stand. `block` is the one whose attention is looked at, from 0.
    """

    data: str
    source: str
    share: str
    tested_on: str
    method: str
    lam: float | None
    num_seeds: int
    num_pictures: int
    top1: float
    std: float | None
    low: float | None
    high: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    probe_gain: float | None
    probe_gain_low: float | None
    probe_gain_high: float | None
    change: float | None
    change_low: float | None
    change_high: float | None
    block: int | None
    object_share: float | None


def shift_rows(
    found: Sequence[Measured], blocks: Mapping[tuple[str, str], int | None], labels: Mapping[str, str]
) -> list[ShiftRow]:
    """Return a row for each data set, source, share, test set, method and λ, in the order of their coming.

    `blocks` are the blocks whose attention is looked at, by data set and source; `labels` name the sources by
    the fingerprints of their weights.
    """
    groups = row_groups(found, labels, lambda one: (one.test,))
    return [_row(key, groups, blocks.get(key[:2])) for key in groups]


def _row(key: Key, groups: Mapping[Key, list[Measured]], block: int | None) -> ShiftRow:
    *where, test, method, lam = key
    group = groups[key]
    top1 = [one.top1 for one in group]
    looked = [one.object_share[block] for one in group if one.object_share and block is not None]
    itself = _interval(group, [replace(one, right=[0.0] * len(one.right)) for one in group])
    compared: dict[str, Any] = {}
    for name, (other_test, other, other_lam) in {
        "gain": (test, BASELINE, None),
        "probe_gain": (test, PROBE, None),
        "change": (group[0].beside, method, lam),
    }.items():
        is_other = (other_test, other, other_lam) != (test, method, lam)
        others = groups.get((*where, other_test, other, other_lam), []) if is_other else []
        ahead = fmean(top1) - fmean(one.top1 for one in others) if others else None
        compared |= gain_fields(name, ahead, _interval(group, others))
    return ShiftRow(  # type: ignore[misc]  # the key has as many parts as come first
        *key,
        num_seeds=len(group),
        num_pictures=group[0].num_pictures,
        top1=fmean(top1),
        std=mean_std(top1)[1],
        low=itself and itself.low,
        high=itself and itself.high,
        **compared,
        block=block if looked else None,
        object_share=100 * fmean(looked) if looked else None,
    )


def _interval(group: Sequence[Measured], others: Sequence[Measured]) -> Interval | None:
    first, second = ({one.configuration.seed: one.right for one in side} for side in (group, others))
    cells, objects = group[0].cells, group[0].objects
    return worst_interval(first, second, cells, objects) if cells else picture_interval(first, second)


def text_table(rows: Sequence[ShiftRow]) -> TextTable:
    """Return the rows as text."""
    columns = {
        **first_columns(rows),
        "pictures": [str(row.num_pictures) for row in rows],
        "top-1": [f"{row.top1:.1f} [{number(row.low)}, {number(row.high)}]" for row in rows],
    }
    for title, name in (("gain", "gain"), ("beside the probe", "probe_gain"), ("change", "change")):
        columns[title] = gain_cells(rows, name)
    columns["on object"] = [number(row.object_share) for row in rows]
    brief, groups = ("data", "trained on", "seeds", "pictures"), ("data", "source", "trained on", "tested on")
    return TextTable(columns, WORDS, brief, groups)


def notes(rows: Sequence[ShiftRow]) -> list[str]:
    """Return what has to be said below the table for it to be read rightly."""
    said = [
        "mean over the seeds; gain: over fine-tune; change: from the same objects as they usually stand; in "
        "brackets: 95 % interval, paired where it is of a difference, over seeds and objects."
    ]
    names = {row.tested_on for row in rows}
    said += [text for name, text in EXPLAINED.items() if name in names]
    return said + object_notes(rows)


def draw_test_sets(tests: Sequence[TestSet]) -> bytes:
    """Return a PNG file of what they look like: a line for each, up to eight pictures, taken evenly."""
    lines = []
    for test in tests:
        shown = test.pictures[evenly(len(test.pictures))].permute(0, 2, 3, 1).float() / 255
        lines.append((test.name, list(map(Panel, shown))))
    return png(draw_grid(lines))
