"""The rows of the table that the runs fill, in the order of their worth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SETS: dict[str, int | None] = {"cub36": 5, "cars98": 5, "grocery60": None, "pets3": 5}
"""The data sets, with the pictures of a class that are trained on; None for all."""

GUIDES = ("GTA", "msa-output", "block-output")
UNGUIDED = ("linear-probe", "fine-tune")
SEEDS = range(5)
STEPS, LONG = 400, 4000
BATCH_SIZE, VIEWS = 64, 16
QUICK_STEPS, QUICK_BATCH_SIZE, QUICK_VIEWS = 2, 4, 2


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        stage: rows of a stage are done before those of the next.
        shots: the pictures of a class that are trained on; None for all.
        lam: λ of a guide; None for a method without one.
    """

    stage: int
    data: str
    shots: int | None
    method: str
    lam: float | None
    seed: int
    steps: int

    @property
    def name(self) -> str:
        """The row's name among all, which is also that of a file."""
        lam = "" if self.lam is None else f"-lam{self.lam:g}"
        return f"{self.data}-{self.method}{lam}-seed{self.seed}-steps{self.steps}"

    def is_of(self, configuration: dict[str, Any]) -> bool:
        """Return whether a stored run's configuration is this row's."""
        hyper, share = configuration.get("hyper") or {}, configuration.get("share") or {}
        return (
            configuration.get("data") == self.data
            and configuration.get("method") == self.method
            and configuration.get("lam") == self.lam
            and configuration.get("seed") == self.seed
            and share.get("shots") == self.shots
            and hyper.get("steps", self.steps) == self.steps
        )


def planned_rows(sets: Sequence[str], *, quick: bool = False) -> list[Row]:
    """Return every row of these data sets, the most worth first; in a rehearsal a few that take no time."""
    if quick:
        rehearsed = [*((method, None) for method in UNGUIDED), ("GTA", 10.0)]
        return list(_stage(0, sets, rehearsed, SEEDS[:1], QUICK_STEPS))
    usual = [*((method, None) for method in UNGUIDED), *((guide, 10.0) for guide in GUIDES)]
    usual += [("LP-FT", None), ("LP-FT+GTA", 10.0)]  # from the probe's head
    other = [(guide, lam) for lam in (1.0, 100.0) for guide in GUIDES]
    trained = [(method, lam) for method, lam in usual if method != "linear-probe"]
    return [
        *_stage(0, sets, usual, SEEDS[:1], STEPS),
        *_stage(1, sets, usual, SEEDS[1:], STEPS),
        *_stage(2, sets, other, SEEDS, STEPS),
        *_stage(3, sets, trained, SEEDS, LONG),
    ]


def _stage(
    stage: int,
    sets: Sequence[str],
    methods: Sequence[tuple[str, float | None]],
    seeds: Sequence[int],
    steps: int,
) -> Iterator[Row]:
    for seed in seeds:
        for data in sets:
            for method, lam in methods:
                yield Row(stage, data, SETS[data], method, lam, seed, steps)


def finished_rows(rows: Sequence[Row], out: Path) -> set[str]:
    """Return the names of the rows whose runs lie finished in `out`."""
    found = [
        json.loads(report.read_text(encoding="utf-8"))["configuration"]
        for report in out.glob("*/report.json")
        if (report.parent / "DONE").is_file()
    ]
    return {row.name for row in rows if any(row.is_of(configuration) for configuration in found)}


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows to a file."""
    path.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file."""
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
