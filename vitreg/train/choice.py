"""Which of several tried methods is used, and how much of its lead is chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.box import HORIZONTALS
from rich.table import Table

from vitreg.train.runs.report import Report
from vitreg.train.training.methods import BASELINE, is_guided


def kind(report: Report) -> str:
    """Return method and λ in words."""
    c = report.configuration
    return c.method if c.lam is None else f"{c.method} with λ = {c.lam:g}"


def choose(reports: Sequence[Report]) -> Report:
    """Return the report with the highest top-1; among equals the first, and plain fine-tuning before all."""
    return max(
        sorted(reports, key=lambda report: is_guided(report.configuration.method)),
        key=lambda report: report.metrics["top1"],
    )


def chance(a: float, b: float, num_pictures: int) -> float:
    """Return by how many points two top-1 of equally good models differ by chance: two standard errors."""
    share = (a + b) / 200
    return 200 * math.sqrt(2 * share * (1 - share) / num_pictures)


def verdict(reports: Sequence[Report], num_pictures: int) -> str:
    """Return what to use, and whether it is better than plain fine-tuning as far as the pictures can tell."""
    best = choose(reports)
    plain = next(report for report in reports if report.configuration.method == BASELINE)
    if best is plain:
        return f"use fine-tune: no guide was better on these {num_pictures} pictures"
    a, b = best.metrics["top1"], plain.metrics["top1"]
    noise = chance(a, b, num_pictures)
    said = f"use {kind(best)}: {a - b:.1f} points above plain fine-tuning"
    if a - b <= noise:
        return (
            f"{said}, which is within the noise: on {num_pictures} pictures equally good models differ by up "
            f"to {noise:.1f} points; plain fine-tuning may be as good"
        )
    return f"{said}, more than the {noise:.1f} points of chance on {num_pictures} pictures"


def search_table(reports: Sequence[Report]) -> Table:
    """Return the search for the terminal, in the order in which it ran, the choice marked."""
    plain = next(report for report in reports if report.configuration.method == BASELINE)
    best = choose(reports)
    table = Table(box=HORIZONTALS, pad_edge=False)
    table.add_column("method")
    for name in ("λ", "top-1", "gain"):
        table.add_column(name, justify="right")
    table.add_column("")
    for report in reports:
        c, top1 = report.configuration, report.metrics["top1"]
        lam, gain = "" if c.lam is None else f"{c.lam:g}", f"{top1 - plain.metrics['top1']:+.1f}"
        used = "← used" if report is best else ""
        table.add_row(c.method, lam, f"{top1:.1f}", "" if report is plain else gain, used)
    return table
