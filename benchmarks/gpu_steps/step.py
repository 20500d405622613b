"""A step of the command, and what became of it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

DONE, FAILED, OUT_OF_TIME, SKIPPED = "done", "failed", "out of time", "skipped"
"""What becomes of a step. One that is done or has failed is not taken again: it would end alike."""

FULL_MINUTES = 8.0
"""The length of a call for which the seconds of the steps are given."""


@dataclass(frozen=True)
class Step:
    """One thing that only a GPU can tell.

    Attributes:
        name: of its folder.
        seconds: its share of a call of eight minutes; None for all that is left.
        script: what follows `python` in the project's folder. `{seconds}` stands for what it may take from
            its first measurement on, and `{until}` for when it has to be over, by the monotonic clock.
        needs: the packages without which it cannot run.
        skip: why it is left out here, or "".
        environment: variables that it sets.
    """

    name: str
    seconds: float | None
    script: tuple[str, ...]
    needs: tuple[str, ...] = ()
    skip: str = ""
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        status: one of `DONE`, `FAILED`, `OUT_OF_TIME` and `SKIPPED`.
        reason: why, where it is not done.
        seconds: how long it took.
        limit: how many seconds it had.
        command: as it can be called again.
    """

    name: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    limit: float = 0.0
    command: str = ""

    @property
    def is_final(self) -> bool:
        """Whether the step is not taken again in a later call."""
        return self.status in (DONE, FAILED)


def outcome_of(folder: Path, name: str) -> Outcome | None:
    """Return what became of a step in an earlier call, or None if nothing is known."""
    try:
        found = json.loads((folder / name / "step.json").read_text(encoding="utf-8"))
        return Outcome(**found)
    except (OSError, ValueError, TypeError):
        return None


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write what became of a step, whole or not at all."""
    place = folder / outcome.name
    place.mkdir(parents=True, exist_ok=True)
    half = place / "step.json.part"
    half.write_text(json.dumps(asdict(outcome), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(half, place / "step.json")
