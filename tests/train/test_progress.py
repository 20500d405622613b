from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from vitreg.train.basics.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.6, "4 s"), (59.7, "1 min 00 s"), (65, "1 min 05 s"), (7800, "2 h 10 min")]
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    console = Console(file=io.StringIO(), force_terminal=False, width=20)
    with Progress(console) as progress:
        progress.begin(100, num_runs=2, num_finished=1)
        progress.start_run("birds [0]: GTA")
        clock[0] = 30.0
        progress.advance(25)
        progress.finish_run("birds [0]: GTA", {"top1": 51.25}, 30.0)
        progress.start_run("birds: second")
        clock[0] = 120.0
        progress.advance(75)
        progress.finish_run("birds: second", {}, 90.0)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "2 runs to do, 1 finished before",
        # A quarter of the work took 30 seconds; a title is text, not markup, and a line is not broken.
        "run 1 of 2 · birds [0]: GTA: top-1 51.2 % (30 s; about 1 min 30 s left)",
        "run 2 of 2 · birds: second: (1 min 30 s)",
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_bar_percentage_and_time_left_fit_any_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with Progress(console) as progress:
        progress.begin(100, num_runs=12, num_finished=0)
        progress.start_run(
            "a-folder-with-a-very-long-name: LP-FT+msa-output+TransMix λ=10, fold1of2, seed 0" * 2
        )
        for clock[0] in (0.0, 1500.0, 3000.0):
            progress.advance(0 if clock[0] == 0 else 25)
        progress._bars.refresh()
        progress.advance(1)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().replace("\r", "\n").split("\n")
    shown = next(line for line in lines if " 50%" in line)
    assert "about 50 min 00 s left" in shown
    assert shown.count("━") >= 6
    assert "run 1 of 12" in shown
    assert max(len(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)) for line in lines) <= width


def test_time_left_is_that_of_steps_and_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with Progress(Console(file=io.StringIO(), force_terminal=False)) as progress:
        progress.begin(2 * 300 * 96, num_runs=2, num_finished=0)
        for run, earlier in enumerate((0, 100)):  # the second goes on after 100 steps
            progress.start_run("birds: GTA")
            clock[0] += 60
            for _ in range(earlier):  # which are told at once
                progress.advance(96)
            progress.begin_steps()
            for step in range(earlier, 300):
                clock[0] += 20 if step == earlier else 3
                progress.advance(96)
                if run == step == 0:
                    assert progress.time_left == ""  # 80 s for one step are no 13 hours for 600
                else:
                    steps, starts = 600 - 300 * run - step - 1, 1 - run
                    assert progress.time_left == f"about {duration(3 * steps + (60 + 20) * starts)} left"
            progress.finish_run("birds: GTA", {}, clock[0])
    assert progress.time_left == "about 0 s left"


def test_bars_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Progress(console) as progress:
        with progress.stage("reading") as update:
            update(1, 2)
        progress.begin(10, num_runs=1, num_finished=0)
        progress.start_run("birds")
        progress.advance(5)
        progress._bars.refresh()
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "run 1 of 1 · birds" in shown
    assert "50%" in shown
