"""The λ of each cell of a table: chosen by top-1, on held-out training pictures or on the test pictures.

The runs are planned, computed and stored as those of `vitreg finetune --search`, and chosen in another way.
Here λ is a setting of each cell, as in the paper, by the mean over the seeds on a fifth of the training
pictures. There one model is sought among learning rates, methods and λ, on folds, and what cannot win is
stopped. One choice for both would change stored tables: the fifth is a part of what their runs are, and
some of them were stored before there were predictions, by which folds are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from vitreg.train.runs.plan import Run
from vitreg.train.runs.report import Cell, Report

T = TypeVar("T", Run, Report)


@dataclass(frozen=True)
class Choice:
    """What was tried in a cell: the mean top-1 over the seeds, in percent, by λ."""

    cell: Cell
    top1: Mapping[float, float]

    @property
    def lam(self) -> float:
        """The λ with the highest top-1; among equals the smallest, which changes the training least."""
        return max(sorted(self.top1), key=self.top1.__getitem__)


def choices(reports: Iterable[Report]) -> list[Choice]:
    """Return what the reports say of each cell in which more than one λ was tried, in their order."""
    found: dict[Cell, dict[float, list[float]]] = {}
    for report in reports:
        c = report.configuration
        if c.lam is not None and c.cell is not None:
            found.setdefault(c.cell, {}).setdefault(c.lam, []).append(report.metrics["top1"])
    return [
        Choice(cell, {lam: fmean(values) for lam, values in tried.items()})
        for cell, tried in found.items()
        if len(tried) > 1
    ]


def lams_of(found: Iterable[Choice]) -> dict[Cell, float]:
    """Return the λ of each cell."""
    return {choice.cell: choice.lam for choice in found}


def keep_chosen(those: Iterable[T], found: Iterable[Choice]) -> list[T]:
    """Return runs, or their reports, without those of λ that were not chosen."""
    lams = lams_of(found)
    return [one for one in those if (c := one.configuration).cell not in lams or lams[c.cell] == c.lam]


def describe_choices(found: Iterable[Choice], labels: Mapping[str, str], by: str) -> list[str]:
    """Return a line for each choice, `by` what it was made; `labels` are the sources' by fingerprint."""
    lines = []
    for choice in found:
        weights, data, share, method = choice.cell
        source = f" from {labels[weights]}" if labels.get(weights) else ""
        tried = ", ".join(f"{lam:g}: {top1:.1f}" for lam, top1 in sorted(choice.top1.items()))
        lines.append(f"{data}{source}, {share}, {method}: λ = {choice.lam:g} by {by} (top-1 {tried})")
    return lines
