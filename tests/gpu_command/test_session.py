"""The steps are taken in their order, each within its share, and none that is done is taken again."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gpu_steps.session import MORE_TO_DO, take_steps
from gpu_steps.step import DONE, FAILED, OUT_OF_TIME, SKIPPED, Outcome, Step


def step(name: str, code: str, seconds: float | None = 60.0, **options: object) -> Step:
    return Step(name, seconds, ("-c", code), **options)


def take(steps: list[Step], work: Path, *, left: float = 60.0, again: tuple[str, ...] = ()) -> list[Outcome]:
    kept: list[list[str]] = []

    def keep() -> None:
        kept.append(sorted(path.parent.name for path in work.glob("steps/*/step.json")))

    until = time.monotonic() + left
    outcomes = take_steps(steps, work, until=until, minutes=8, again=again, keep=keep, say=lambda text: None)
    assert all(len(before) <= len(after) for before, after in itertools.pairwise(kept))
    return outcomes


def test_each_end_is_told_and_written_at_once(tmp_path: Path) -> None:
    steps = [
        step("good", "print('fine')"),
        step("bad", "raise ValueError('not this')"),
        step("mute", "raise SystemExit(4)"),
        step("part", f"print('3 of 7'); raise SystemExit({MORE_TO_DO})"),
        step("unwanted", "", skip="no pictures"),
        step("bare", "", needs=("json", "no_such_package")),
    ]
    outcomes = {outcome.name: outcome for outcome in take(steps, tmp_path)}
    assert [(outcomes[s.name].status, outcomes[s.name].reason) for s in steps] == [
        (DONE, ""),
        (FAILED, "exit code 1: ValueError: not this"),
        (FAILED, "exit code 4: it printed nothing"),
        (OUT_OF_TIME, "3 of 7"),
        (SKIPPED, "no pictures"),
        (SKIPPED, "no_such_package not installed"),
    ]
    for name, outcome in outcomes.items():
        assert Outcome(**json.loads((tmp_path / "steps" / name / "step.json").read_text())) == outcome
    assert (tmp_path / "steps" / "good" / "log.txt").read_text() == "fine\n"


def test_what_is_done_or_failed_is_not_taken_again(tmp_path: Path) -> None:
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x')"
    steps = [
        step("good", count),
        step("bad", f"{count}; raise SystemExit(1)"),
        step("part", f"{count}; raise SystemExit({MORE_TO_DO})"),
        step("last", count, seconds=None),
    ]

    def taken(again: tuple[str, ...] = ()) -> int:
        (tmp_path / "count").write_text("")
        take(steps, tmp_path, again=again)
        return len((tmp_path / "count").read_text())

    assert taken() == 4
    assert taken() == 2  # the one with more to do, and the last, which looks by itself
    assert taken(again=("bad",)) == 3


def test_a_step_has_its_share_of_the_time(tmp_path: Path) -> None:
    code = "import sys; print(sys.argv[1:])"
    steps = [replace(step("shared", code, 60), script=("-c", code, "{seconds}", "{until}"))]
    steps.append(replace(steps[0], name="rest", seconds=None))
    took = time.monotonic()
    shared, rest = take(steps, tmp_path, left=400)
    assert shared.limit == pytest.approx(60)
    assert rest.limit == pytest.approx(400, abs=30)
    seconds, until = eval((tmp_path / "steps" / "shared" / "log.txt").read_text())
    assert int(seconds) == 40
    assert float(until) == pytest.approx(took + 56, abs=3)


@pytest.mark.slow
def test_a_hanging_step_costs_only_its_share(tmp_path: Path) -> None:
    began = time.monotonic()
    steps = [step("hangs", "import time; print('begun', flush=True); time.sleep(60)", 10.0), step("next", "")]
    hangs, following = take(steps, tmp_path)
    assert time.monotonic() - began < 45
    assert (hangs.status, following.status) == (OUT_OF_TIME, DONE)
    assert (tmp_path / "steps" / "hangs" / "log.txt").read_text() == "begun\n"


def test_no_step_begins_too_late(tmp_path: Path) -> None:
    (outcome,) = take([step("late", "raise SystemExit(1)")], tmp_path, left=5)
    assert outcome.status == OUT_OF_TIME
    assert "of 10 at least" in outcome.reason
