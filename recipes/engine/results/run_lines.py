"""A table's runs as lines of a CSV file, so that each figure can be followed to what it is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vitreg.train.basics.tables import csv_of
from vitreg.train.runs.report import Report


def runs_csv(reports: Sequence[Report]) -> str:
    """Return a line for each run: what it was, what came out in percent, and what computed it."""
    return csv_of([line_of(report) for report in reports])


def line_of(report: Report) -> dict[str, Any]:
    """Return what is to be known of a run, by column."""
    c, hyper, machine = report.configuration, report.configuration.hyper, report.machine
    return {
        "data": c.data,
        "weights": c.weights[:8],
        "model": c.model,
        "size": c.size,
        "share": "" if c.share is None else str(c.share),
        "method": c.method,
        "lam": "" if c.lam is None else c.lam,
        "seed": c.seed,
        "hold_out": c.hold_out,
        "measure_every": c.measure_every,
        "steps": hyper.steps if hyper else "",
        "views": hyper.views if hyper else "",
        "every": hyper.every if hyper else "",
        "fraction": hyper.fraction if hyper else "",
        "balance": hyper.balance if hyper else "",
        "precision": c.precision,
        "top1": _round(report.metrics.get("top1")),
        "object_share": percentages(report.metrics.get("object_share", ())),
        "jaccard": percentages(report.metrics.get("jaccard", ())),
        "seconds": round(report.seconds),
        "device": machine["device"],
        "threads": machine["threads"],
        "torch": machine["versions"]["torch"],
        "timm": machine["versions"]["timm"],
        "folder": c.folder,
    }


def _round(value: float | None) -> float | str:
    return "" if value is None else float(f"{value:.7g}")


def percentages(shares: Sequence[float]) -> str:
    """Return the figure of each block, in percent."""
    return " ".join(f"{100 * share:.2f}" for share in shares)
