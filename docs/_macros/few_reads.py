"""What fewer passes of the source cost in accuracy, from the runs "views" and "every" in `docs/_results`."""

from __future__ import annotations

import csv
from statistics import fmean

from _macros.our_tables import markdown, plus_minus
from _macros.paper import minus_signed
from _macros.stored_results import BASELINE, RESULTS, spread

PICTURES, DRAWS = 50, 120 * 32
"""Of the runs with finite views: five training pictures of ten birds, and 120 steps of 32 pictures."""

PASS = 0.31
"""What the source adds to a step, by arithmetic: with every step 1.31."""


def views_table() -> str:
    """Return top-1 with a finite number of views a picture as Markdown, with and without GTA.

    The last column is the largest number of pictures that the source can have read; the last row has a new
    view each time.
    """
    found = _top1("views", "views")
    rows = []
    for views in sorted({views for views, _ in found}, key=lambda views: (views == 0, views)):
        plain, guided = (found[views, method] for method in (BASELINE, "GTA"))
        if len(plain) != len(guided):
            raise ValueError(f"{views} views: expected as many seeds of both, found {plain} and {guided}")
        rows.append(
            [
                str(views) if views else "a new one each time",
                str(len(plain)),
                plus_minus(fmean(plain), spread(plain)),
                plus_minus(fmean(guided), spread(guided)),
                f"{min(views * PICTURES, DRAWS) if views else DRAWS:,}",
            ]
        )
    headings = ["views a picture", "seeds", "fine-tuning", "GTA, λ = 10", "source reads at most"]
    return markdown(headings, rows)


def new_views_top1(method: str) -> str:
    """Return the mean top-1 in percent of a method with a new view each time."""
    return f"{fmean(_top1('views', 'views')[0, method]):.1f}"


def every_table() -> str:
    """Return top-1 with the penalty on every k-th step as Markdown, and the gain over fine-tuning."""
    found = _top1("every", "every")
    rows = []
    for every in sorted(every for every, method in found if method == "GTA"):
        top1, plain = found[every, "GTA"], found[every, BASELINE]
        rows.append(
            [
                {1: "every step", 2: "every 2nd"}.get(every, f"every {every}th"),
                f"{1 + PASS / every:.2f}",
                str(len(top1)),
                plus_minus(fmean(top1), spread(top1)),
                minus_signed(fmean(top1) - fmean(plain)),
            ]
        )
    return markdown(["penalty on", "step, by arithmetic", "seeds", "top-1", "gain"], rows)


def _top1(folder: str, option: str) -> dict[tuple[int, str], list[float]]:
    """Return top-1 in percent of each seed, by the value of an option and the method."""
    found: dict[tuple[int, str], list[float]] = {}
    with open(RESULTS / "runs.csv", newline="", encoding="utf-8") as file:
        for run in csv.DictReader(file):
            if run["folder"] == folder and run["top1"]:
                found.setdefault((int(run[option]), run["method"]), []).append(float(run["top1"]))
    if not found:
        raise ValueError(f"expected runs of {folder!r} in runs.csv, found none; see docs/_results/collect.py")
    return found


MACROS = (views_table, every_table)
"""What pages may ask for."""
