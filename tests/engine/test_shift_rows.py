from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.results.intervals import picture_interval, worst_interval
from engine.results.shift_rows import (
    ORIGINAL,
    USUAL,
    WORST,
    Measured,
    ShiftRow,
    notes,
    shift_rows,
    text_table,
)
from vitreg.train.data.subset import Share
from vitreg.train.runs.report import Configuration


def measured(
    method: str, test: str, right: Sequence[float], *, seed: int = 0, weights: str = "w", **more: object
) -> Measured:
    share = Share(shots=5)
    c = Configuration("pets", "f", "m", weights, 32, "crop", method, None, share, seed, None)
    return Measured(c, test, len(right), right, **more)  # type: ignore[arg-type]


def by_name(found: Sequence[Measured]) -> dict[tuple[str, str, str], ShiftRow]:
    rows = shift_rows(found, {("pets", ""): 1}, {"w": "", "v": "other"})
    return {(row.source, row.tested_on, row.method): row for row in rows}


def test_a_change_is_from_the_same_objects_as_they_usually_stand() -> None:
    original, mixed = {0: [1.0, 1, 0, 1], 1: [1.0, 0, 1, 1]}, {0: [1.0, 0.5, 0, 0], 1: [1.0, 0, 0, 0.5]}
    found = [measured("fine-tune", ORIGINAL, original[s], seed=s) for s in (0, 1)]
    found += [measured("fine-tune", "mixed-rand", mixed[s], seed=s, beside=ORIGINAL) for s in (0, 1)]
    rows = by_name(found)
    row = rows["", "mixed-rand", "fine-tune"]
    interval = picture_interval(mixed, original)
    assert interval is not None
    assert (row.top1, row.change) == pytest.approx((37.5, -37.5))
    assert (row.change_low, row.change_high) == pytest.approx(interval[:2])
    itself = picture_interval(mixed, {s: [0.0] * 4 for s in (0, 1)})
    assert (row.low, row.high) == pytest.approx((itself or ())[:2])
    assert rows["", ORIGINAL, "fine-tune"].change is None
    assert (row.gain, row.probe_gain) == (None, None)


def test_the_worst_pair_has_an_interval_of_its_own() -> None:
    cells, objects = ["a", "b", "a", "b"] * 3, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    right = {"fine-tune": [1.0, 0, 1, 0] * 3, "GTA": [1.0, 1, 0, 1] * 3}
    found = [
        measured(method, WORST, values, cells=cells, objects=objects) for method, values in right.items()
    ]
    rows = by_name(found)
    assert rows["", WORST, "fine-tune"].top1 == 0
    assert rows["", WORST, "GTA"].top1 == 50
    interval = worst_interval({0: right["GTA"]}, {0: right["fine-tune"]}, cells, objects)
    assert interval is not None
    gta = rows["", WORST, "GTA"]
    assert (gta.gain, gta.gain_low, gta.gain_high) == pytest.approx((50, *interval[:2]))


def test_sources_are_rows_of_their_own() -> None:
    found = [
        measured(method, USUAL, [1.0, value], weights=weights, object_share=(0.1, 0.1 * (value + 1)))
        for weights, value in (("w", 0.0), ("v", 1.0))
        for method in ("fine-tune", "linear-probe")
    ]
    rows = shift_rows(found, {("pets", ""): 0, ("pets", "other"): 1}, {"w": "", "v": "other"})
    assert [(row.source, row.method, row.top1) for row in rows] == [
        ("", "fine-tune", 50),
        ("", "linear-probe", 50),
        ("other", "fine-tune", 100),
        ("other", "linear-probe", 100),
    ]
    assert [row.probe_gain for row in rows] == [0, None, 0, None]
    assert [row.object_share for row in rows] == pytest.approx([10, 10, 20, 20])
    table = text_table(rows)
    assert table.columns["source"] == ["", "", "other", "other"]
    assert "change" not in table.columns
    drawn = table.rich()
    assert [place for place, row in enumerate(drawn.rows) if row.end_section] == [1, 3]
    assert any(said.startswith("pets from other: on object") for said in notes(rows))
