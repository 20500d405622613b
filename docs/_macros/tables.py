"""The tables that the recipes wrote into `docs/results/NAME/`, and their figures as the pages write them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache

from _macros.methods import ROOT

RESULTS = ROOT / "docs" / "results"

Row = Mapping[str, str]


@cache
def rows_of(table: str) -> Sequence[Row]:
    """Return the rows of the table that a recipe wrote into docs/results/TABLE."""
    (path,) = (p for p in (RESULTS / table).glob("*.csv") if "-" not in p.stem)
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def signed(value: float, digits: int = 1) -> str:
    """Return a difference in points with its sign, where the minus is one; nothing has no minus."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def figure(row: Row, column: str) -> str:
    """Return a cell as the pages write it: rounded, with its deviation, a gain with its sign."""
    if column == "λ":
        return f"{float(row['lam']):g}" if row["lam"] else ""
    if column in ("gain", "probe_gain"):
        return signed(float(row[column]))
    if column == "top-1 within":
        return "{:.1f} [{:.1f}, {:.1f}]".format(*(float(row[name]) for name in ("top1", "low", "high")))
    if column.endswith(" within"):
        name = column.removesuffix(" within")
        gain, low, high = (signed(float(row[f"{name}{end}"])) for end in ("", "_low", "_high"))
        return f"{gain} [{low}, {high}]"
    mean, std = {"top-1": ("top1", "std"), "on object": ("object_share", "object_share_std")}[column]
    return f"{float(row[mean]):.1f}" + (f" ± {float(row[std]):.1f}" if row.get(std) else "")
