"""From stored runs to the rows of a table, and the rows as text. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from engine.results.intervals import Interval, gain_cells, gain_fields, picture_interval, seed_interval
from engine.results.paper import PaperTable
from engine.results.run_lines import Key, row_groups
from vitreg.train.basics.tables import TextTable, number, signed
from vitreg.train.runs.report import Report
from vitreg.train.training.methods import BASELINE, SOURCE

WORDS = ("data", "source", "trained on", "tested on", "method")
"""The columns of words in all tables."""

PROBE, START = "linear-probe", "LP-FT"
FROM_START = f"{START}+", "WiSE-FT"

Right = Callable[[Report], Sequence[bool] | None]
"""From a run to whether each of its test pictures was right; None where its predictions were not kept."""


@dataclass(frozen=True)
class Row:
    """A method at one λ, on one data set and share; top-1 in percent, the object figures in percent too.

    `source` is the label of the weights in a table of several; `class_mean` the mean of the classes' top-1.
    `gain` is over fine-tuning without a penalty, `probe_gain` over the linear probe, `start_gain` of what is
    added to LP-FT over LP-FT, each from `_low` to `_high` with 95 %, drawn over what `interval_over` says.
    `paper` is the number for the same data set, and `difference` ours minus it; where `is_paper_data` is
    false, `paper` is the mean of the paper's data sets, and only the gains can be compared.
    """

    data: str
    source: str
    share: str
    method: str
    lam: float | None
    num_seeds: int
    top1: float | None
    std: float | None
    class_mean: float | None
    gain: float | None
    paper: float | None
    paper_gain: float | None
    difference: float | None
    is_paper_data: bool
    block: int | None
    object_share: float | None
    object_share_std: float | None
    jaccard: float | None
    jaccard_std: float | None
    gain_low: float | None = None
    gain_high: float | None = None
    probe_gain: float | None = None
    probe_gain_low: float | None = None
    probe_gain_high: float | None = None
    start_gain: float | None = None
    start_gain_low: float | None = None
    start_gain_high: float | None = None
    interval_over: str = ""


def rows(
    reports: Iterable[Report],
    paper: PaperTable,
    labels: Mapping[str, str] | None = None,
    right: Right = lambda report: None,
) -> list[Row]:
    """Return the table of the reports, in the order in which they first come, a source's own row first.

    `labels` names the sources by the fingerprints of their weights, where there are several; `right` says
    which pictures a run had right, for the intervals.
    """
    groups = row_groups(reports, labels or {})
    table = [_row(key, group, groups, paper, right) for key, group in groups.items()]
    order, sources, shares = (
        list(dict.fromkeys(getattr(row, name) for row in table)) for name in ("data", "source", "share")
    )
    return sorted(
        table,
        key=lambda row: (
            order.index(row.data),
            row.method != SOURCE,
            shares.index(row.share),
            sources.index(row.source),
        ),
    )


def _row(
    key: Key, group: list[Report], groups: dict[Key, list[Report]], paper: PaperTable, right: Right
) -> Row:
    data, source, share, method, lam = key
    mean, std = mean_std([report.metrics.get("top1") for report in group])
    gains: dict[str, float | None] = {}
    over = ""
    for name, other in (("gain", BASELINE), ("probe_gain", PROBE), ("start_gain", START)):
        is_asked = {PROBE: method != PROBE, START: method.startswith(FROM_START)}.get(other, True)
        beside = groups.get((data, source, share, other, None), []) if is_asked else []
        interval = _interval(group, beside, right) if method != other else None
        points = minus(mean, mean_std([report.metrics.get("top1") for report in beside])[0])
        gains |= gain_fields(name, points, interval)
        over = over or (interval.over if interval else "")
    trained_on = group[0].configuration.share
    printed, printed_baseline = (paper.number(data, one, trained_on, source) for one in (method, BASELINE))
    block = object_block(groups.get((data, source, "", SOURCE, None), []))
    looked = mean_std(_at(block, group, "object_share"))
    matched = mean_std(_at(block, group, "jaccard"))
    return Row(
        data=data,
        source=source,
        share=share,
        method=method,
        lam=lam,
        num_seeds=len(group),
        top1=mean,
        std=std,
        class_mean=mean_std([report.metrics.get("class_mean") for report in group])[0],
        paper=printed,
        paper_gain=minus(printed, printed_baseline),
        difference=minus(mean, printed) if paper.same_data(data) else None,
        is_paper_data=paper.same_data(data) is not None,
        block=block,
        object_share=looked[0],
        object_share_std=looked[1],
        jaccard=matched[0],
        jaccard_std=matched[1],
        interval_over=over,
        **gains,
    )


def _interval(group: Sequence[Report], others: Sequence[Report], right: Right) -> Interval | None:
    """Return the interval of the difference of two methods, over the pictures too where they were kept."""
    kept, top1 = [], []
    for side in (group, others):
        kept.append({r.configuration.seed: found for r in side if (found := right(r))})
        top1.append({r.configuration.seed: r.metrics["top1"] for r in side if "top1" in r.metrics})
    # Predictions of some of the seeds would give the interval of another difference than the one beside it.
    is_complete = [len(side) for side in kept] == [len(side) for side in top1]
    return (picture_interval(*kept) if is_complete else None) or seed_interval(*top1)


def object_block(source: Sequence[Report]) -> int | None:
    """Return the block in which the source looks most at the object: chosen before any method is seen."""
    if not source or "object_share" not in source[0].metrics:
        return None
    shares = source[0].metrics["object_share"]
    return int(max(range(len(shares)), key=shares.__getitem__))


def _at(block: int | None, group: Sequence[Report], metric: str) -> list[float | None]:
    return [
        100 * r.metrics[metric][block] if block is not None and metric in r.metrics else None for r in group
    ]


def mean_std(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Return mean and sample standard deviation; no deviation of a single value."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return fmean(known), stdev(known) if len(known) > 1 else None


def minus(a: float | None, b: float | None) -> float | None:
    """Return a difference, None where one of the two is."""
    return None if a is None or b is None else a - b


def notes(table: Sequence[Row]) -> list[str]:
    """Return what has to be said below the table for it to be read rightly."""
    seeds = "/".join(
        str(number) for number in sorted({row.num_seeds for row in table if row.method != SOURCE})
    )
    said = [f"mean ± standard deviation over {seeds} seed(s); gain: over fine-tune with the same pictures."]
    if over := sorted({row.interval_over for row in table} - {""}):
        said.append(
            f"in brackets: 95 % interval of the paired difference over {' or '.join(over)}; the "
            "chance of what is not named is not in it."
        )
    if any(row.paper is not None and not row.is_paper_data for row in table):
        said.append(
            "paper: the mean over the paper's five data sets, which are other pictures: compare the gains."
        )
    jaccard = (
        "; Jaccard: of the object and the patches that hold 60 % of a head's attention there, best head of "
        "each picture"
    )
    return said + object_notes(table, jaccard)


def object_notes(table: Sequence[Any], beside: str = "") -> list[str]:
    """Return for each data set and source what the attention on the object is, and `beside` it."""
    blocks = {(row.data, row.source): row.block for row in table if row.block is not None}
    return [
        f"{data}{f' from {source}' if source else ''}: on object: share of the [CLS] attention on the object "
        f"in block {block} (counted from 0), where the source looks at it most{beside}."
        for (data, source), block in blocks.items()
    ]


def text_table(table: Sequence[Row]) -> TextTable:
    """Return the rows as text."""
    columns = {
        **first_columns(table),
        "top-1": [number(row.top1, std=row.std) for row in table],
        "beside the probe": gain_cells(table, "probe_gain"),
        "beside LP-FT": gain_cells(table, "start_gain"),
        "gain": [
            "" if r.method == BASELINE else c for r, c in zip(table, gain_cells(table, "gain"), strict=True)
        ],
        "paper": [number(row.paper) for row in table],
        "paper's gain": [signed(None if row.method == BASELINE else row.paper_gain) for row in table],
        "ours − paper": [signed(row.difference) for row in table],
        "on object": [number(row.object_share, std=row.object_share_std) for row in table],
        "Jaccard": [number(row.jaccard, std=row.jaccard_std) for row in table],
    }
    return TextTable(columns, WORDS, brief=("data", "seeds"), groups=("data", "trained on", "source"))


def first_columns(table: Sequence[Any]) -> dict[str, list[str]]:
    """Return what the rows of a table are of, the columns that all tables begin with."""
    places = {"data": "data", "source": "source", "trained on": "share", "tested on": "tested_on"}
    columns = {title: [getattr(row, name, "") for row in table] for title, name in places.items()}
    return {
        **columns,
        "method": [row.method for row in table],
        "λ": ["" if row.lam is None else f"{row.lam:g}" for row in table],
        "seeds": ["" if row.method == SOURCE else str(row.num_seeds) for row in table],
    }
