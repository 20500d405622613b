"""The runs that the GPU's stretches have added up to, as a table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

BASELINE = "fine-tune"
NOTHING = "No run has been made yet: `python benchmarks/gpu.py` makes them on a GPU.\n"
HEAD = ("data", "trained on", "steps", "method", "λ", "seeds", "top-1", "beside fine-tuning")

Run = Mapping[str, str]
Cell = tuple[str, str, str, str, str]
"""Data, share, steps, method and λ."""


def stored_runs(path: Path) -> list[Run]:
    """Return the lines of the stored runs that were measured on test pictures; none without the file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [line for line in csv.DictReader(file) if line["top1"]]


def runs_table(runs: Sequence[Run]) -> str:
    """Return top-1 of each method, and how far it is from fine-tuning on the same seeds, in points."""
    if not runs:
        return NOTHING
    cells: dict[Cell, dict[str, float]] = {}
    for run in runs:
        key = (run["data"], run["share"], run["steps"], run["method"], run["lam"])
        cells.setdefault(key, {})[run["seed"]] = float(run["top1"])
    lines = [f"| {' | '.join(HEAD)} |", "|---|---|--:|---|--:|--:|--:|--:|"]
    for (data, share, steps, method, lam), seeds in sorted(cells.items(), key=lambda cell: _order(cell[0])):
        plain = cells.get((data, share, steps, BASELINE, ""), {})
        differences = [top1 - plain[seed] for seed, top1 in seeds.items() if seed in plain]
        beside = "" if method == BASELINE or not differences else _spread(differences, sign="+")
        shown = f"{float(lam):g}" if lam else ""
        values = _spread(list(seeds.values()))
        lines.append(
            f"| {data} | {share} | {steps} | {method} | {shown} | {len(seeds)} | {values} | {beside} |"
        )
    machines = sorted({tuple(run[name] for name in ("device", "torch", "timm", "date")) for run in runs})
    made = "; ".join(
        f"{device}, torch {torch}, timm {timm}, {date}" for device, torch, timm, date in machines
    )
    return "\n".join([*lines, "", f"`python benchmarks/gpu.py`, {made}."]) + "\n"


def _order(cell: Cell) -> tuple[str, str, float, bool, str, float]:
    data, share, steps, method, lam = cell
    return data, share, float(steps or 0), method != BASELINE, method, float(lam or 0)


def _spread(values: Sequence[float], *, sign: str = "") -> str:
    mean = f"{fmean(values):{sign}.1f}"
    return mean if len(values) == 1 else f"{mean} ± {stdev(values):.1f}"
