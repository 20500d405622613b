"""How far the runs on Ray are: told by each of them, and shown as one."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

from vitreg.train.basics.progress import Progress
from vitreg.train.runs.plan import Run
from vitreg.train.runs.report import Report

TELL = 1.0
"""Seconds between two words of a run on how far it is."""


class RunNews(Progress):
    """The progress of one run, told to the one who waits for the table."""

    def __init__(self, news: Any, run: Run) -> None:
        super().__init__(Console(quiet=True))
        self.news, self.run = news, run
        self.say("")

    def say(self, text: str) -> None:
        """Tell how far the run is, and `text`."""
        self.news.put((self.run.configuration.folder, self.run.title, self.done, text))
        self.told = time.monotonic()

    def advance(self, units: int) -> None:
        """Note that `units` of work are done, and tell it now and then."""
        self.done += units
        if time.monotonic() - self.told > TELL:
            self.say("")


class TableNews:
    """The progress of several runs at once: how far all are, and which they are."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.titles: dict[str, str] = {}
        self.done: dict[str, int] = {}
        self.num_finished = 0

    def hear(self, folder: str, title: str, done: int, text: str) -> None:
        """Show what a run says; one that began again is less far than before."""
        if text:
            self.progress.say(text)
        self.progress.advance(done - self.done.get(folder, 0))
        self.titles[folder], self.done[folder] = title, done
        self._describe()

    def finish(self, run: Run, report: Report) -> None:
        """Show what a run measured."""
        self.titles.pop(run.configuration.folder, None)
        self.progress.advance(run.cost - self.done.pop(run.configuration.folder, 0))
        self.num_finished += 1
        self.progress.run_number = self.num_finished
        self.progress.finish_run(run.title, report.metrics, report.seconds)
        self._describe()

    def _describe(self) -> None:
        if self.titles:
            first, *others = self.titles.values()
            self.progress.run_number = self.num_finished
            self.progress.start_run(f"{first} and {len(others)} more at once" if others else first)
