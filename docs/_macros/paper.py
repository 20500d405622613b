"""The numbers that the paper prints (arXiv 2401.02656), from `recipes/paper/*.csv`."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from statistics import fmean

from _macros.methods import ROOT, card
from _macros.results import BASELINE, RESULTS

PAPER = ROOT / "recipes" / "paper"
TABLES = ("table1", "table2", "table3", "table4", "table5", "table6", "table_a")
DATA_SETS = ("CUB", "Cars", "Aircraft", "Dogs", "Pet")


def method_in_the_paper(name: str) -> str:
    """Return a method's rows of the paper's table, with those of plain fine-tuning."""
    table = card(name).paper
    if not table:
        return "The [GTA paper](https://arxiv.org/abs/2401.02656) does not compare itself with it."
    shown = (BASELINE, *card(name).beside, *card(name).rows)
    head, rule, *rows = (RESULTS / "paper" / f"{table}.md").read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if row.split(" | ")[1] in shown and row.startswith(("| 15 %", "| 100 %"))]
    source = (
        f"Top-1 in percent, Table {table.removeprefix('table')} of the "
        "[GTA paper](https://arxiv.org/abs/2401.02656): ViT-S/16 pre-trained by iBOT, a share of each class."
    )
    return "\n".join([head, rule, *kept, "", source])


def paper_top1(method: str, rate: int, data: str = "", *, table: str = "table2") -> float:
    """Return the paper's top-1 in percent on a data set, or its mean over all of them.

    Raises:
        KeyError: The paper's table has no such figure.
    """
    return fmean(_top1(table)[one, method, rate] for one in ([data] if data else DATA_SETS))


def paper_gain(method: str, rate: int, data: str = "", *, table: str = "table2") -> str:
    """Return by how much a method is ahead of plain fine-tuning in the paper, in points."""
    return signed(paper_top1(method, rate, data, table=table) - paper_top1(BASELINE, rate, data, table=table))


def read_paper(name: str) -> list[dict[str, str]]:
    """Return the rows of `recipes/paper/NAME.csv`.

    Raises:
        ValueError: The paper has no such table.
    """
    if name not in TABLES:
        raise ValueError(f"expected one of the paper's tables, {', '.join(TABLES)}; found {name!r}")
    with open(PAPER / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def signed(value: float, digits: int = 1) -> str:
    """Return a difference with its sign, where the minus is one; nothing has no minus."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


@cache
def _top1(table: str) -> Mapping[tuple[str, str, int], float]:
    rows = read_paper(table)
    return {(r["dataset"], r["method"], int(r["rate_percent"])): float(r["acc1_mean"]) for r in rows}
