"""A table's runs as lines of a CSV file, so that each figure can be followed to what it is of."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from vitreg.train.runs.report import Report
from vitreg.wording import cell


def runs_csv(reports: Sequence[Report]) -> str:
    """Return a line for each run: what it was, what came out in percent, and what computed it."""
    text = io.StringIO()
    lines = [_line(report) for report in reports]
    writer = csv.DictWriter(text, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow(
            {key: cell(value) if isinstance(value, str) else value for key, value in line.items()}
        )
    return text.getvalue()


def _line(report: Report) -> dict[str, Any]:
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
        "precision": c.precision,
        "top1": _round(report.metrics.get("top1")),
        "object_share": _blocks(report.metrics.get("object_share", ())),
        "jaccard": _blocks(report.metrics.get("jaccard", ())),
        "seconds": round(report.seconds),
        "device": machine["device"],
        "threads": machine["threads"],
        "torch": machine["versions"]["torch"],
        "timm": machine["versions"]["timm"],
        "folder": c.folder,
    }


def _round(value: float | None) -> float | str:
    return "" if value is None else float(f"{value:.7g}")


def _blocks(shares: Sequence[float]) -> str:
    """Return the attention on the object of each block, in percent."""
    return " ".join(f"{100 * share:.2f}" for share in shares)
