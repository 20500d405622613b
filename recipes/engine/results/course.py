"""Accuracy and attention in the course of the training, as a table and as lines of a CSV file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.results.rows import WORDS, mean_std, object_block
from engine.results.run_lines import line_of, percentages
from vitreg.train.basics.tables import TextTable, csv_of, number
from vitreg.train.runs.report import Report
from vitreg.train.training.methods import SOURCE

WHAT = ("data", "weights", "share", "method", "lam", "seed", "hold_out", "measure_every", "steps")
"""What a line of the course says of its run."""


def course_table(reports: Sequence[Report], labels: Mapping[str, str]) -> TextTable:
    """Return a row for each moment of each cell, mean ± deviation over the seeds, moment after moment.

    `labels` names the sources by the fingerprints of their weights. The attention is that in the block in
    which the source looks most at the object; drift is the share of it that looks elsewhere than in the
    source, in percent, mean over the blocks.
    """
    groups: dict[tuple[str, str, str, int, str, float | None], list[dict[str, float]]] = {}
    sources: dict[tuple[str, str], list[Report]] = {}
    for report in reports:
        c = report.configuration
        where = c.data, labels.get(c.weights, "")
        if c.method == SOURCE:
            sources.setdefault(where, []).append(report)
        for entry in report.log:
            if "top1" in entry:
                key = (*where, str(c.share), int(entry["step"]) + 1, c.method, c.lam)
                groups.setdefault(key, []).append(entry)
    parts = list(dict.fromkeys(key[:3] for key in groups))
    order = sorted(groups, key=lambda key: (parts.index(key[:3]), key[3]))

    def mean(key: tuple[str, str, str, int, str, float | None], name: str, scale: float) -> str:
        average, std = mean_std([scale * entry[name] if name in entry else None for entry in groups[key]])
        return number(average, std=std)

    blocks = {where: object_block(found) for where, found in sources.items()}
    columns = {
        "data": [data for data, *_ in order],
        "source": [source for _, source, *_ in order],
        "trained on": [key[2] for key in order],
        "method": [key[4] for key in order],
        "λ": ["" if key[5] is None else f"{key[5]:g}" for key in order],
        "steps": [str(key[3]) for key in order],
        "seeds": [str(len(groups[key])) for key in order],
        "top-1": [mean(key, "top1", 1) for key in order],
        "on object": [mean(key, f"object_share/{blocks.get(key[:2])}", 100) for key in order],
        "drift": [mean(key, "drift", 100) for key in order],
    }
    return TextTable(columns, WORDS, brief=("data",), groups=("data", "source", "trained on"))


def course_csv(reports: Sequence[Report]) -> str:
    """Return a line for each moment of each run, in percent; the attention that of each block."""
    lines = []
    for report in reports:
        run = {name: value for name, value in line_of(report).items() if name in WHAT}
        for entry in report.log:
            if "top1" in entry:
                shares = [value for name, value in entry.items() if name.startswith("object_share/")]
                drift = percentages([entry["drift"]] if "drift" in entry else [])
                measured = {
                    "top1": f"{entry['top1']:.7g}",
                    "object_share": percentages(shares),
                    "drift": drift,
                }
                lines.append({**run, "step": int(entry["step"]) + 1, **measured})
    return csv_of(lines)
