"""Which process works on which row: one file a row, made by whoever comes first."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from gpu_steps.rows import Row

FINISHED, UNKNOWN, FAILED = "finished", "unknown", "failed"


class Claims:
    """A folder of claims.

    Args:
        folder: of one call; it is empty when the call begins.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def next_row(self, rows: Sequence[Row], loaded: Collection[str], turn: int) -> Row | None:
        """Claim and return the next row of the first stage that has one left, or None if none is left.

        Args:
            rows: all rows.
            loaded: the data sets that this process holds already: their rows come first.
            turn: the number of this process, so that several begin with different data sets.
        """
        for stage in sorted({row.stage for row in rows}):
            of_stage = [row for row in rows if row.stage == stage and not self._path(row).exists()]
            sets = list(dict.fromkeys(row.data for row in of_stage))
            if not sets:
                continue
            turned = sets[turn % len(sets) :] + sets[: turn % len(sets)]
            order = sorted(turned, key=lambda name: name not in loaded)
            for row in sorted(of_stage, key=lambda row: order.index(row.data)):
                if self._claim(row):
                    return row
        return None

    def release(self, row: Row) -> None:
        """Give a claimed row back."""
        self._path(row).unlink()

    def mark(self, row: Row, state: str, reason: str = "") -> None:
        """Write what became of a row."""
        self._path(row).write_text(f"{state} {' '.join(reason.split())[:300]}", encoding="utf-8")

    def of_state(self, rows: Sequence[Row], state: str) -> dict[str, str]:
        """Return the reasons of the rows in a state, by their names."""
        found = {}
        for row in rows:
            if self._path(row).is_file():
                said, _, reason = self._path(row).read_text(encoding="utf-8").partition(" ")
                if said == state:
                    found[row.name] = reason
        return found

    def _claim(self, row: Row) -> bool:
        try:
            os.close(os.open(self._path(row), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True

    def _path(self, row: Row) -> Path:
        return self.folder / row.name
