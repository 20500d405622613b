"""The numbers printed in the paper (arXiv 2401.02656), to stand beside ours."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from vitreg.train.data.subset import Share
from vitreg.train.training.methods import BASELINE

PAPER = Path(__file__).resolve().parents[2] / "paper"
DATA_SETS = ("CUB", "Cars", "Aircraft", "Dogs", "Pet")


@dataclass(frozen=True)
class PaperTable:
    """Top-1 in percent by data set, method and rate in percent.

    A table of several sources has methods such as `GTA (DINO)`, and `baseline (DINO)` for fine-tuning.
    """

    top1: dict[tuple[str, str, float], float]

    def number(self, data: str, method: str, share: Share | None, source: str = "") -> float | None:
        """Return the paper's top-1; for a data set it does not have, the mean over those it has.

        None where the paper has no such method, rate or source.
        """
        if share is None or share.rate is None:
            return None
        if source:
            method = f"{'baseline' if method == BASELINE else method} ({source})"
        rate = round(100 * share.rate, 6)
        name = self.same_data(data)
        names = [name] if name is not None else sorted({known for known, *_ in self.top1})
        found = [self.top1[key] for known in names if (key := (known, method, rate)) in self.top1]
        return fmean(found) if found and len(found) == len(names) else None

    def same_data(self, data: str) -> str | None:
        """Return the paper's name of a data set, or None if it is not one of the paper's."""
        return next((known for known, *_ in self.top1 if known.lower() == data.lower()), None)


def read_paper_table(name: str) -> PaperTable:
    """Return the numbers of `recipes/paper/NAME.csv`; nothing where the paper has no such table of top-1."""
    if not (PAPER / f"{name}.csv").exists():
        return PaperTable({})
    top1 = {
        (r["dataset"], r["method"], float(r["rate_percent"])): float(r["acc1_mean"]) for r in paper_rows(name)
    }
    return PaperTable(top1)


def paper_rows(name: str) -> list[dict[str, str]]:
    """Return the lines of `recipes/paper/NAME.csv`."""
    with open(PAPER / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))
