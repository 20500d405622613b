"""The numbers that the paper (arXiv 2401.02656) prints, from `recipes/paper/*.csv`: tables and gains."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean

from _macros.methods import ROOT, card
from _macros.results import BASELINE

PAPER = ROOT / "recipes" / "paper"
TABLES = ("table1", "table2", "table3", "table4", "table5", "table6", "table_a")
NEAR, FAR = ("CUB", "Dogs", "Pet"), ("Cars", "Aircraft")
"""Data sets that are like the pictures of the pre-training, and that are not, as the paper sorts them."""

DATA_SETS = ("CUB", "Cars", "Aircraft", "Dogs", "Pet")
RATES = (15, 100)
PRE_TRAINED = "pre-trained (SSL)"
"""What the paper calls our `source` in table 4."""

_COMPARED = {
    "GTA": "table2",
    "msa-output": "table3",
    "block-output": "table3",
    "L2-SP": "table2",
    "BSS": "table2",
    "attention-only": "table2",
    "ffn-only": "table2",
    "fine-tune+TransMix": "table5",
    "GTA+TransMix": "table5",
}
"""The methods that `paper_gains_by_domain` compares, and the tables that have them."""


def paper_table(name: str) -> str:
    """Return a table of the paper as Markdown: accuracies with their mean, and the gain over fine-tuning."""
    rows = read_paper(name)
    if name == "table1":
        return markdown(list(rows[0]), [list(row.values()) for row in rows])
    if name == "table4":
        start = next(float(row["jaccard"]) for row in rows if row["model"] == PRE_TRAINED)
        of = {row["model"]: float(row["jaccard"]) for row in rows}
        gains = ["" if model == PRE_TRAINED else signed(of[model] - start, 3) for model in of]
        body = [[model, f"{of[model]:.3f}", gain] for model, gain in zip(of, gains, strict=True)]
        return markdown(["model", "Jaccard", "gain"], body)
    cells: dict[tuple[int, str], dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: int(row["rate_percent"])):
        std = f" ± {float(row['acc1_std']):.1f}" if row.get("acc1_std") else ""
        by_data = cells.setdefault((int(row["rate_percent"]), row["method"]), {})
        by_data[row["dataset"]] = f"{float(row['acc1_mean']):.1f}{std}"
    body = [
        [f"{rate} %", method, *(by_data[data] for data in DATA_SETS), *_mean_and_gain(name, method, rate)]
        for (rate, method), by_data in cells.items()
    ]
    return markdown(["trained on", "method", *DATA_SETS, "mean", "gain"], body)


def method_in_the_paper(name: str) -> str:
    """Return a method's rows of the paper's table, with those of plain fine-tuning."""
    table = card(name).paper
    shown = (BASELINE, *card(name).beside, *card(name).rows)
    head, rule, *rows = paper_table(table).splitlines()
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


def paper_gains_by_domain() -> str:
    """Return the gain of each method near the source's pictures and far from them, with few and with all."""
    body = []
    for method, table in _COMPARED.items():
        of = [
            fmean(_top1(table)[one, method, rate] - _top1(table)[one, BASELINE, rate] for one in data)
            for data in (NEAR, FAR)
            for rate in RATES
        ]
        body.append([method, *map(signed, of)])
    return markdown(["method", *(f"{where}, {rate} %" for where in ("near", "far") for rate in RATES)], body)


def paper_gains_by_share(method: str) -> str:
    """Return a method's gain on each data set by the share of its pictures, and how many a class has."""
    rates = sorted({rate for _, _, rate in _top1("table2")})
    counts = {row["dataset"]: int(row["train"]) / int(row["classes"]) for row in read_paper("table1")}
    body = [
        [data, f"{counts[data]:.0f}", *(paper_gain(method, rate, data) for rate in rates)]
        for data in (*NEAR, *FAR)
    ]
    return markdown(["data set", "pictures a class", *(f"{rate} %" for rate in rates)], body)


def read_paper(name: str) -> list[dict[str, str]]:
    """Return the rows of `recipes/paper/NAME.csv`.

    Raises:
        ValueError: The paper has no such table.
    """
    if name not in TABLES:
        raise ValueError(f"expected one of the paper's tables, {', '.join(TABLES)}; found {name!r}")
    with open(PAPER / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown; columns of words stand to the left, of numbers to the right."""
    words = ("dataset", "data set", "trained on", "method", "model")
    rule = "|".join("---" if heading in words else "--:" for heading in headings)
    body = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([f"| {' | '.join(headings)} |", f"|{rule}|", *body])


def signed(value: float, digits: int = 1) -> str:
    """Return a difference with its sign, where the minus is one; nothing has no minus."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def _mean_and_gain(table: str, method: str, rate: int) -> tuple[str, str]:
    """Return the mean over the data sets, and its gain over fine-tuning from the same source."""
    source = (re.search(r" \(\w+\)$", method) or [""])[0]
    plain = f"baseline{source}" if source else BASELINE
    mean = paper_top1(method, rate, table=table)
    gain = "" if method == plain else signed(mean - paper_top1(plain, rate, table=table))
    return f"{mean:.1f}", gain


@cache
def _top1(table: str) -> Mapping[tuple[str, str, int], float]:
    rows = read_paper(table)
    return {(r["dataset"], r["method"], int(r["rate_percent"])): float(r["acc1_mean"]) for r in rows}


MACROS = (paper_table,)
"""What pages may ask for."""
