"""The steps taken one after the other until the time is over, each result kept at once."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gpu_steps.process import run_for
from gpu_steps.step import (
    DONE,
    FAILED,
    FULL_MINUTES,
    OUT_OF_TIME,
    SKIPPED,
    Outcome,
    Step,
    outcome_of,
    write_outcome,
)

BENCHMARKS = Path(__file__).resolve().parents[1]
ROOT = BENCHMARKS.parent

STARTING = 20.0
"""Seconds of a step that go into starting Python, importing torch and making a model."""

ENDING = 4.0
"""Seconds that a step keeps for ending by itself."""

LEAST = 10.0
"""A step is not started with fewer seconds than this."""

MORE_TO_DO = 75
"""The exit code of a step that ended in time and has more to do in a later call."""


def take_steps(
    steps: Sequence[Step],
    work: Path,
    *,
    until: float,
    minutes: float,
    again: Sequence[str] = (),
    keep: Callable[[], None],
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Take the steps in their order and return what became of each.

    Args:
        steps: in the order of their worth.
        work: the folder of `steps/`, `results/` and `runs/`.
        until: when all has to be over, by the monotonic clock.
        minutes: the length of the whole call, of which each step has its share.
        again: the names of steps that are taken also where an earlier call has done them.
        keep: called after each step, to keep what there is.
        say: told of each step.
    """
    outcomes = []
    for folder in ("steps", "results", "runs"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    for step in steps:
        earlier = outcome_of(work / "steps", step.name)
        # The last step, which has all the time that is left, looks by itself what is left to do.
        is_over = earlier is not None and earlier.is_final and step.seconds is not None
        if earlier is not None and is_over and step.name not in again:
            say(f"{step.name}: {earlier.status} in an earlier call")
            outcomes.append(earlier)
            continue
        outcome = _take(step, work, until=until, minutes=minutes)
        write_outcome(work / "steps", outcome)
        reason = f": {outcome.reason}" if outcome.reason else ""
        say(f"{step.name}: {outcome.status} after {outcome.seconds:.0f} s{reason}")
        outcomes.append(outcome)
        keep()
    return outcomes


def _take(step: Step, work: Path, *, until: float, minutes: float) -> Outcome:
    left = until - time.monotonic()
    if step.skip:
        return Outcome(step.name, SKIPPED, step.skip)
    if missing := [name for name in step.needs if importlib.util.find_spec(name) is None]:
        return Outcome(step.name, SKIPPED, f"{', '.join(missing)} not installed")
    limit = left if step.seconds is None else min(left, step.seconds * minutes / FULL_MINUTES)
    if limit < LEAST:
        return Outcome(step.name, OUT_OF_TIME, f"{max(limit, 0):.0f} s were left, of {LEAST:.0f} at least")
    seconds, over = str(max(1, round(limit - STARTING))), f"{time.monotonic() + limit - ENDING:.0f}"
    script = [part.replace("{seconds}", seconds).replace("{until}", over) for part in step.script]
    place = work / "steps" / step.name
    place.mkdir(parents=True, exist_ok=True)
    (place / "log.txt").unlink(missing_ok=True)
    paths = [str(ROOT), str(BENCHMARKS), str(ROOT / "recipes"), *filter(None, [os.environ.get("PYTHONPATH")])]
    ended = run_for(
        limit,
        [sys.executable, *script],
        log=place / "log.txt",
        folder=ROOT,
        environment={
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            **dict(step.environment),
        },
    )
    became = partial(
        Outcome,
        step.name,
        seconds=round(ended.seconds, 1),
        limit=round(limit, 1),
        command=shlex.join(["python", *script]),
    )
    if ended.code is None:
        return became(OUT_OF_TIME, "ended when its time was over")
    if ended.code == MORE_TO_DO:
        return became(OUT_OF_TIME, _last_line(place / "log.txt"))
    if ended.code:
        return became(FAILED, f"exit code {ended.code}: {_last_line(place / 'log.txt')}")
    return became(DONE)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it printed nothing"
