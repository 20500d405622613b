"""What the person who waits sees: a bar with the time left, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

from vitreg.train.basics.console import say
from vitreg.wording import plain

LONGEST_LEFT = len("about 59 min 59 s left")
"""The width that is kept for the time left, so that nothing moves when it changes."""

ENOUGH = 3.0
"""Seconds of steps that tell how long the others take; a run's first one, and what precedes it, are slow."""


class Progress:
    """Progress of stages (reading pictures, pre-training), then of all runs together; a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.num_runs = self.run_number = 0
        self.total = self.done = 0
        self.began = time.monotonic()
        self._starts: list[float] = []  # seconds of each run until its first step was done
        self._before, self._now = (0.0, 0), (0.0, 0)  # seconds and units behind it: runs before, this one
        self._run_began: float | None = None
        self._mark: tuple[float, int] | None = None  # moment and units as this run's first step was done
        self._overall: TaskID | None = None
        self._bars = Bars(
            # A narrow terminal cuts the description; bar, percentage and the time left stay.
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=14),
            TaskProgressColumn(table_column=Column(no_wrap=True, min_width=4)),
            TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True, min_width=LONGEST_LEFT)),
            expand=True,
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line, above the bars."""
        say(self.console, text)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Show a stage; yields the function that is told how much of it is done, and of how much."""
        began, said = time.monotonic(), 0.0
        bar = self._bars.add_task(escape(plain(name)), total=None, left="")

        def update(done: int, total: int) -> None:
            nonlocal said
            passed = time.monotonic() - began
            left = _time_left(passed * (total - done) / done) if done else ""
            self._bars.update(bar, completed=done, total=total, left=left)
            if not self.console.is_terminal and passed - said > 15 and done < total:
                said = passed
                self.say(f"{name}: {100 * done // total} % ({left})")

        yield update
        self._bars.remove_task(bar)
        if time.monotonic() - began > 1:
            self.say(f"{name}: {duration(time.monotonic() - began)}")

    def begin(self, total: int, *, num_runs: int, num_finished: int) -> None:
        """Start the overall bar over `total` units of work in `num_runs` runs."""
        self.total, self.num_runs, self.began = total, num_runs, time.monotonic()
        self.done = self.run_number = 0
        self._starts, self._before, self._now, self._run_began = [], (0.0, 0), (0.0, 0), None
        if self._overall is not None:
            self._bars.remove_task(self._overall)
        finished = f", {num_finished} finished before" if num_finished else ""
        self.say(f"{num_runs} run{'s' if num_runs != 1 else ''} to do{finished}")
        self._overall = self._bars.add_task("all runs", total=total, left="", visible=num_runs > 0)

    def start_run(self, title: str) -> None:
        """Say which run it is."""
        self.run_number += 1
        self._run_began = time.monotonic()
        self.begin_steps()
        if self._overall is not None:
            number = f"run {self.run_number} of {self.num_runs}"
            self._bars.update(self._overall, description=f"{number} · {escape(plain(title))}")

    def begin_steps(self) -> None:
        """Note that the run's steps begin: those told before were done before an interruption."""
        if self._mark is not None:
            self._starts.pop()
        self._mark, self._now = None, (0.0, 0)

    def advance(self, units: int) -> None:
        """Note that `units` of work are done."""
        self.done += units
        if self._run_began is not None:
            now = time.monotonic()
            if self._mark is None:
                self._mark = now, self.done
                self._starts.append(now - self._run_began)
            self._now = now - self._mark[0], self.done - self._mark[1]
        if self._overall is not None:
            self._bars.update(self._overall, advance=units, left=self.time_left)

    def finish_run(self, title: str, metrics: Mapping[str, Any], seconds: float) -> None:
        """Print what a run measured, and the time left."""
        self._before = self._before[0] + self._now[0], self._before[1] + self._now[1]
        self._run_began, self._mark, self._now = None, None, (0.0, 0)
        top1 = f" top-1 {metrics['top1']:.1f} %" if "top1" in metrics else ""
        left = f"; {self.time_left}" if self.run_number < self.num_runs else ""
        self.say(f"run {self.run_number} of {self.num_runs} · {title}:{top1} ({duration(seconds)}{left})")

    @property
    def time_left(self) -> str:
        """The time left, in words; none as long as not enough was seen to tell."""
        seconds, units = (before + now for before, now in zip(self._before, self._now, strict=True))
        if seconds >= ENOUGH and units:
            steps = seconds / units * (self.total - self.done)
            return _time_left(steps + fmean(self._starts) * (self.num_runs - self.run_number))
        if self._run_began is not None or not self.done:
            return ""
        return _time_left((time.monotonic() - self.began) * (self.total - self.done) / self.done)


def _time_left(seconds: float) -> str:
    return f"about {duration(seconds)} left"


def duration(seconds: float) -> str:
    """Return seconds in words: 4 s, 1 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
