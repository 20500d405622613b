"""The paper's figures for a method (arXiv 2401.02656), from recipes/paper/table*.csv."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from statistics import fmean

from _macros.methods import card
from _macros.paper import minus_signed as signed
from _macros.paper import read_paper
from _macros.stored_results import BASELINE

NEAR, FAR = ("CUB", "Dogs", "Pet"), ("Cars", "Aircraft")
"""Data sets that are like the pictures of the pre-training, and that are not, as the paper sorts them."""

DATA_SETS = ("CUB", "Cars", "Aircraft", "Dogs", "Pet")
RATES = (15, 100)

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


def method_in_the_paper(name: str) -> str:
    """Return a method's top-1 on each of the paper's data sets and on average, with the gain.

    The gain is that of the mean over plain fine-tuning.
    """
    table = card(name).paper
    shown = (BASELINE, *card(name).beside, *card(name).rows)
    names = [method for method in dict.fromkeys(method for _, method, _ in _top1(table)) if method in shown]
    lines = [
        f"| trained on | method | {' | '.join(DATA_SETS)} | mean | gain |",
        f"|---|---|{'--:|' * (len(DATA_SETS) + 2)}",
    ]
    for rate in RATES:
        for method in names:
            cells = [f"{_top1(table)[data, method, rate]:.1f}" for data in DATA_SETS]
            gain = "" if method == BASELINE else paper_gain(method, rate, table=table)
            mean = f"{paper_top1(method, rate, table=table):.1f}"
            lines.append(f"| {rate} % | {' | '.join((method, *cells, mean, gain))} |")
    said = (
        f"Top-1 in percent, Table {table.removeprefix('table')} of the "
        "[GTA paper](https://arxiv.org/abs/2401.02656): ViT-S/16 pre-trained by iBOT, a share of each class."
    )
    return "\n".join([*lines, "", said])


def paper_top1(method: str, rate: int, data: str = "", *, table: str = "table2") -> float:
    """Return the paper's top-1 in percent on a data set, or its mean over all of them.

    Raises:
        KeyError: the paper's table has no such figure.
    """
    return fmean(_top1(table)[one, method, rate] for one in ([data] if data else DATA_SETS))


def paper_gain(method: str, rate: int, data: str = "", *, table: str = "table2") -> str:
    """Return by how much a method is ahead of plain fine-tuning in the paper, in points."""
    return signed(paper_top1(method, rate, data, table=table) - paper_top1(BASELINE, rate, data, table=table))


def paper_gains_by_domain() -> str:
    """Return the gain of each method near the source's pictures and far from them, with few and with all."""
    lines = [
        f"| method | near, {RATES[0]} % | near, {RATES[1]} % | far, {RATES[0]} % | far, {RATES[1]} % |",
        "|---|--:|--:|--:|--:|",
    ]
    for method, table in _COMPARED.items():
        gains = [
            fmean(_top1(table)[one, method, rate] - _top1(table)[one, BASELINE, rate] for one in data)
            for data in (NEAR, FAR)
            for rate in RATES
        ]
        lines.append(f"| {method} | {' | '.join(map(signed, gains))} |")
    return "\n".join(lines)


def paper_gains_by_share(method: str) -> str:
    """Return a method's gain on each data set by the share of its pictures, and how many a class has."""
    rates = sorted({rate for _, _, rate in _top1("table2")})
    counts = {row["dataset"]: int(row["train"]) / int(row["classes"]) for row in read_paper("table1")}
    head = " | ".join(f"{rate} %" for rate in rates)
    lines = [f"| data set | pictures a class | {head} |", f"|---|--:|{'--:|' * len(rates)}"]
    for data in (*NEAR, *FAR):
        gains = " | ".join(paper_gain(method, rate, data) for rate in rates)
        lines.append(f"| {data} | {counts[data]:.0f} | {gains} |")
    return "\n".join(lines)


@cache
def _top1(table: str) -> Mapping[tuple[str, str, int], float]:
    rows = read_paper(table)
    return {(r["dataset"], r["method"], int(r["rate_percent"])): float(r["acc1_mean"]) for r in rows}
