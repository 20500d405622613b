"""What our own runs gave, from the files in `docs/_results`: the tables' rows, and gains over fine-tuning.

A table is the CSV file that its recipe wrote into `--out`. `runs.csv` has a line for each run, and
`made.json` says of each table which runs it is made of, and by which command.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

DOCS = Path(__file__).resolve().parent.parent
RESULTS = DOCS / "_results"
BASELINE = "fine-tune"

OBJECT = ("object_share", "object_share_std", "jaccard", "jaccard_std")
COLUMNS = {
    *("data", "source", "share", "method", "lam", "num_seeds", "top1", "std", "class_mean", "gain", "paper"),
    *("paper_gain", "difference", "is_paper_data", "block", *OBJECT),
}
"""Of a table of accuracies."""

JACCARD_COLUMNS = {
    *("data", "model", "num_seeds", "block", "mass", "jaccard", "std", "gain", "mean_attention"),
    *("foreground", "whole_picture", "paper", "paper_gain", "is_paper_data", "num_pictures", "num_left_out"),
}
"""Of table 4."""

COUNT_COLUMNS = {
    *("data", "classes", "train", "test", "at_15", "at_30", "at_50", "at_100", "objects"),
    *("paper_classes", "paper_train", "paper_test"),
}
"""Of table 1."""

Row = Mapping[str, str]


@dataclass(frozen=True)
class Gain:
    """What a method gains at one λ, or None for a method without, over the same seeds' fine-tuning.

    `std` is the sample standard deviation of the seeds' gains; None where there is one seed.
    """

    mean: float
    std: float | None
    num_seeds: int
    lam: float | None


def read_result(name: str) -> list[dict[str, str]]:
    """Return the rows of `docs/_results/NAME.csv`.

    Raises:
        ValueError: There is no such table, or it has a column that is not known here.
    """
    if name not in made():
        raise ValueError(f"expected one of {', '.join(made())}, found {name!r}; add it to made.json")
    with open(RESULTS / f"{name}.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {column for row in rows for column in row}
    known = COUNT_COLUMNS if "classes" in found else JACCARD_COLUMNS if "model" in found else COLUMNS
    unknown = sorted(map(str, found - known))
    if unknown or not rows:
        raise ValueError(
            f"{name}.csv: expected rows with the columns {', '.join(sorted(known))}, found "
            f"{', '.join(unknown) or 'no row'}; teach docs/_macros/stored_results.py what it means"
        )
    return rows


def made() -> dict[str, dict[str, Any]]:
    """Return of each table by which command it was made, and from which runs."""
    found: dict[str, dict[str, Any]] = json.loads((RESULTS / "made.json").read_text(encoding="utf-8"))
    return found


def runs_of(name: str) -> list[dict[str, str]]:
    """Return the runs on test pictures of which a table is made, of all seeds that it may have taken.

    Raises:
        ValueError: There is none.
    """
    entry = made()[name]
    weights = entry.get("weights", {}).values()
    with open(RESULTS / "runs.csv", newline="", encoding="utf-8") as file:
        found = [
            run
            for run in csv.DictReader(file)
            if run["folder"] == entry.get("folder")
            and float(run["hold_out"]) == 0
            and (run["measure_every"] != "0") == name.startswith("steps")
            and (not weights or run["weights"] in weights)
        ]
    if not found:
        raise ValueError(f"expected runs of {name} in runs.csv, found none; see docs/_results/collect.py")
    return found


def course_of(name: str) -> list[dict[str, str]]:
    """Return what was measured in the course of a table's runs, in the order of seeds and steps."""
    with open(RESULTS / "course.csv", newline="", encoding="utf-8") as file:
        return [at for at in csv.DictReader(file) if at["folder"] == made()[name]["folder"]]


def top1_of(name: str, row: Row, runs: Sequence[Row]) -> dict[int, float]:
    """Return the top-1 of each seed behind a row of a table, in percent, from the table's runs."""
    weights = made()[name].get("weights", {}).get(row.get("source", ""))
    return {
        int(run["seed"]): float(run["top1"])
        for run in runs
        if all(run[column] == row[column] for column in ("share", "method", "lam"))
        and weights in (None, run["weights"])
        and int(run["seed"]) < int(row["num_seeds"])
    }


def gains(name: str) -> dict[tuple[str, str, str], list[Gain]]:
    """Return what is gained over fine-tuning, by source, share and method: one gain for each λ.

    Raises:
        ValueError: As `read_result`, or the runs of a row are not all there, or have another mean.
    """
    rows = [row for row in read_result(name) if row["method"] != "source"]
    runs = runs_of(name)
    baselines = {_cell(row): top1_of(name, row, runs) for row in rows if row["method"] == BASELINE}
    found: dict[tuple[str, str, str], list[Gain]] = {}
    for row in sorted(rows, key=lambda row: float(row["lam"] or 0)):
        if row["method"] == BASELINE:
            continue
        ours, baseline = top1_of(name, row, runs), baselines[_cell(row)]
        if ours.keys() != baseline.keys() or len(ours) != int(row["num_seeds"]):
            raise ValueError(f"{name}: expected {row['num_seeds']} runs of {dict(row)}, found {len(ours)}")
        each = [ours[seed] - baseline[seed] for seed in sorted(ours)]
        mean = float(row["gain"])
        if abs(fmean(each) - mean) > 1e-3:
            raise ValueError(f"{name}: expected the gain of its runs, {fmean(each):.3f}, found {dict(row)}")
        lam = float(row["lam"]) if row["lam"] else None
        gain = Gain(mean, spread(each), len(each), lam)
        found.setdefault((*_cell(row), row["method"]), []).append(gain)
    return found


def spread(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation, or None of one value."""
    return stdev(values) if len(values) > 1 else None


def _cell(row: Row) -> tuple[str, str]:
    return row.get("source", ""), row["share"]
