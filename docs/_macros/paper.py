"""The numbers that the paper prints (`recipes/paper/*.csv`), as tables and as gains over fine-tuning."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from statistics import fmean

from _macros.our_tables import markdown, plus_minus, signed
from _macros.stored_results import BASELINE, DOCS

PAPER = DOCS.parent / "recipes" / "paper"
_ACCURACIES = ("dataset", "method", "rate_percent", "acc1_mean")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "table1": ("dataset", "classes", "train", "test"),
    "table2": (*_ACCURACIES, "acc1_std"),
    "table3": _ACCURACIES,
    "table4": ("model", "jaccard"),
    "table5": _ACCURACIES,
    "table6": _ACCURACIES,
    "table_a": _ACCURACIES,
}
"""The paper's tables, and what their files say of each row."""

PRE_TRAINED = "pre-trained (SSL)"
"""What the paper calls our `source` in table 4."""

Cell = tuple[str, str, str]
"""Source, share and method; the source is "" where the table has one only."""


def read_paper(name: str) -> list[dict[str, str]]:
    """Return the rows of `recipes/paper/NAME.csv`.

    Raises:
        ValueError: The paper has no such table, or its file does not have the columns that it should have.
    """
    if name not in COLUMNS:
        raise ValueError(f"expected one of the paper's tables, {', '.join(COLUMNS)}; found {name!r}")
    with open(PAPER / f"{name}.csv", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if tuple(reader.fieldnames or ()) != COLUMNS[name] or not rows:
        found = ", ".join(reader.fieldnames or ())
        raise ValueError(
            f"{name}.csv: expected rows with the columns {', '.join(COLUMNS[name])}; found {found}"
        )
    return rows


def paper_top1(name: str) -> dict[Cell, dict[str, tuple[str, str]]]:
    """Return top-1 in percent and its deviation, if it is known, of each data set, in the paper's order.

    Shares come from the smallest to the largest. `baseline (SL)` is fine-tuning from the source `SL`.
    """
    found: dict[Cell, dict[str, tuple[str, str]]] = {}
    for row in sorted(read_paper(name), key=lambda row: float(row["rate_percent"])):
        method, source = re.fullmatch(r"(.+?)(?: \((\w+)\))?", row["method"]).groups(default="")  # type: ignore[union-attr]
        cell = (source, f"{row['rate_percent']} %", BASELINE if method == "baseline" else method)
        found.setdefault(cell, {})[row["dataset"]] = (row["acc1_mean"], row.get("acc1_std", ""))
    return found


def paper_gains(name: str) -> dict[Cell, dict[str, float]]:
    """Return the points that each method is ahead of fine-tuning, by cell and data set."""
    top1 = paper_top1(name)
    return {
        (source, share, method): {
            data: float(mean) - float(top1[source, share, BASELINE][data][0])
            for data, (mean, _) in by_data.items()
        }
        for (source, share, method), by_data in top1.items()
        if method != BASELINE
    }


def paper_table(name: str) -> str:
    """Return a table of the paper as Markdown: accuracies with their mean, and the gain over fine-tuning."""
    if name == "table1":
        rows = [list(row.values()) for row in read_paper(name)]
        return markdown(["data", "classes", "training", "test"], rows)
    if name == "table4":
        jaccard = {row["model"]: float(row["jaccard"]) for row in read_paper(name)}
        rows = [
            [
                model,
                f"{value:.3f}",
                "" if model == PRE_TRAINED else minus_signed(value - jaccard[PRE_TRAINED], 3),
            ]
            for model, value in jaccard.items()
        ]
        return markdown(["model", "Jaccard", "gain"], rows)
    top1, ahead = paper_top1(name), paper_gains(name)
    sources = any(source for source, _, _ in top1)
    rows = []
    for (source, share, method), by_data in top1.items():
        gain = ahead.get((source, share, method), {})
        rows.append(
            [
                share,
                *([source] if sources else []),
                method,
                *(plus_minus(mean, std) for mean, std in by_data.values()),
                f"{fmean(float(mean) for mean, _ in by_data.values()):.1f}",
                minus_signed(fmean(gain.values())) if gain else "",
            ]
        )
    words = ["trained on", *(["source"] if sources else []), "method"]
    return markdown([*words, *next(iter(top1.values())), "mean", "gain"], rows)


def minus_signed(value: float, digits: int = 1) -> str:
    """Return a difference with its sign, where the minus is one."""
    return signed(value, digits=digits).replace("-", "−")


MACROS = (paper_table,)
"""What pages may ask for."""
