"""From what kept models had right on each test set to the rows of a table, and the rows as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from engine.results.intervals import Interval, gain_fields, picture_interval
from engine.results.rows import PROBE, mean_std
from vitreg.train.basics.tables import TextTable, ends_of, number, signed
from vitreg.train.runs.report import Configuration
from vitreg.train.training.methods import BASELINE


@dataclass(frozen=True)
class Tested:
    """What one model had right of a test set, and the share of its attention on the objects, by block.

    `right` is the share of each object's pictures that were right: 0 or 1 where it has one.
    """

    configuration: Configuration
    test: str
    num_pictures: int
    right: Sequence[float]
    object_share: Sequence[float] = ()


@dataclass(frozen=True)
class ShiftRow:
    """A method on a test set: top-1 and attention on the object in percent, differences with 95 % intervals.

    `block` is the one whose attention is looked at, from 0.
    """

    data: str
    tested_on: str
    share: str
    method: str
    lam: float | None
    num_seeds: int
    num_pictures: int
    top1: float
    std: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    probe_gain: float | None
    probe_gain_low: float | None
    probe_gain_high: float | None
    block: int | None
    object_share: float | None


def shift_rows(found: Sequence[Tested], blocks: Mapping[str, int | None]) -> list[ShiftRow]:
    """Return a row for each data set, test set, share, method and λ, in the order in which they come.

    `blocks` are the blocks whose attention is looked at, by data set.
    """
    groups: dict[tuple[str, str, str, str, float | None], list[Tested]] = {}
    for one in found:
        c = one.configuration
        groups.setdefault((c.data, one.test, str(c.share), c.method, c.lam), []).append(one)
    order = list(dict.fromkeys(key[:3] for key in groups))
    rows = []
    for key in sorted(groups, key=lambda key: order.index(key[:3])):
        data, tested_on, share, method, lam = key
        group, block = groups[key], blocks[data]
        plain = groups.get((*key[:3], BASELINE, None), []) if method != BASELINE else []
        probe = groups.get((*key[:3], PROBE, None), []) if method != PROBE else []
        top1 = [_top1(one) for one in group]
        looked = [one.object_share[block] for one in group if one.object_share and block is not None]
        rows.append(
            ShiftRow(
                data=data,
                tested_on=tested_on,
                share=share,
                method=method,
                lam=lam,
                num_seeds=len(group),
                num_pictures=group[0].num_pictures,
                top1=fmean(top1),
                std=mean_std(top1)[1],
                **gain_fields("gain", _ahead(group, plain), _interval(group, plain)),
                **gain_fields("probe_gain", _ahead(group, probe), _interval(group, probe)),
                block=block if looked else None,
                object_share=100 * fmean(looked) if looked else None,
            )
        )
    return rows


def _top1(one: Tested) -> float:
    return 100 * sum(one.right) / len(one.right)


def _ahead(group: Sequence[Tested], others: Sequence[Tested]) -> float | None:
    return fmean(map(_top1, group)) - fmean(map(_top1, others)) if others else None


def _interval(group: Sequence[Tested], others: Sequence[Tested]) -> Interval | None:
    by_seed = [{one.configuration.seed: one.right for one in side} for side in (group, others)]
    return picture_interval(*by_seed)


def text_table(rows: Sequence[ShiftRow]) -> TextTable:
    """Return the rows as text."""
    columns = {
        "data": [row.data for row in rows],
        "trained on": [row.share for row in rows],
        "tested on": [row.tested_on for row in rows],
        "method": [row.method for row in rows],
        "λ": ["" if row.lam is None else f"{row.lam:g}" for row in rows],
        "seeds": [str(row.num_seeds) for row in rows],
        "pictures": [str(row.num_pictures) for row in rows],
        "top-1": [number(row.top1, std=row.std) for row in rows],
        "gain": [signed(row.gain, within=(row.gain_low, row.gain_high)) for row in rows],
        "beside the probe": [
            signed(row.probe_gain, within=(row.probe_gain_low, row.probe_gain_high)) for row in rows
        ],
        "on object": [number(row.object_share) for row in rows],
    }
    hidden = [name for name in ("data", "trained on", "seeds", "pictures") if len(set(columns[name])) == 1]
    groups = [(row.data, row.share, row.tested_on) for row in rows]
    return TextTable(columns, ("data", "trained on", "tested on", "method"), hidden, ends_of(groups))


def notes(rows: Sequence[ShiftRow]) -> list[str]:
    """Return what has to be said below the table for it to be read rightly."""
    said = [
        "mean ± standard deviation over the seeds; gain: over fine-tune; in brackets: 95 % interval of the "
        "paired difference over seeds and objects."
    ]
    if any(row.tested_on == "mixed-rand" for row in rows):
        said.append(
            "original: test pictures whose object is known; only-background: the object taken out; "
            "mixed-same, mixed-rand: each object on three backgrounds of test pictures of its own class, of "
            "another."
        )
    said += [
        f"{data}: on object: share of the [CLS] attention on the object in block {block} (counted from 0), "
        "where the source looks at it most."
        for data, block in {row.data: row.block for row in rows if row.block is not None}.items()
    ]
    return said
