"""Steps measured side by side: their turns, ratios and peak memory, and what is left out."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch
from torch import Tensor

import full_batch
import side_by_side
import variants
from benchmark_setting import CPU, options, setting
from training import Setting, make_setting, training_step
from variants import VARIANTS, Entry, costs, with_baselines


def test_steps_take_turns() -> None:
    taken: list[str] = []
    steps = {name: lambda name=name: taken.append(name) for name in "abc"}
    seconds = side_by_side.measure(steps, rounds=3, warmup=1, device=CPU, cycles={"b": 2})
    assert "".join(taken) == "abbc" + "bbca" + "cabb" + "abbc"
    assert {name: len(of) for name, of in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_seconds_are_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 12)
    monkeypatch.setattr(side_by_side.time, "perf_counter", lambda: next(clock))
    steps = {"once": lambda: None, "of four": lambda: None}
    seconds = side_by_side.measure(steps, rounds=2, warmup=1, device=CPU, cycles={"of four": 4})
    assert seconds == {"once": [12, 12], "of four": [3, 3]}


def test_ratios_are_of_one_round() -> None:
    seconds = {"plain": [1.0, 2.0, 4.0, 8.0], "ours": [2.0, 6.0, 4.0, 32.0], "theirs": [1.0] * 4}
    rows = side_by_side.ratios(seconds, {"plain": "plain", "ours": "plain", "theirs": "ours"})
    low, middle, high = statistics.quantiles([2, 3, 1, 4], n=4)
    ours = rows["ours"]
    assert (ours["ratio_first_quartile"], ours["ratio"], ours["ratio_third_quartile"]) == (low, middle, high)
    assert ours["seconds"] == 5
    assert rows["plain"]["ratio"] == 1
    assert rows["theirs"]["ratio"] == pytest.approx(statistics.median([1 / 2, 1 / 6, 1 / 4, 1 / 32]))


def test_the_peak_is_what_was_allocated_at_once() -> None:
    before = [torch.zeros(1000, 1000)]

    def step() -> None:
        first = torch.zeros(500, 1000)  # 2 MB
        del first
        second = torch.zeros(750, 1000)  # 3 MB
        before.clear()  # what was there before is not the step's
        third = torch.zeros(250, 1000)  # 1 MB
        del second, third

    assert side_by_side.peak_bytes(step, CPU) == 4_000_000


def test_what_an_earlier_profile_saw_does_not_count() -> None:
    earlier: list[Tensor] = []
    side_by_side.peak_bytes(lambda: earlier.append(torch.zeros(100, 1000)), CPU)

    def step() -> None:
        first = torch.zeros(500, 1000)  # 2 MB
        earlier.clear()  # 0.4 MB, which this step did not allocate
        second = torch.zeros(250, 1000)  # 1 MB
        del first, second

    assert side_by_side.peak_bytes(step, CPU) == 3_000_000


@pytest.mark.parametrize("number", [1, 5, 6, 15, 40])
def test_the_interval_of_a_median_has_the_coverage_that_it_says(number: int) -> None:
    low, high = side_by_side.median_interval([float(rank) for rank in range(number)][::-1])
    cut = int(low)
    assert high == number - 1 - cut
    # Of all ways in which values lie below or above the median: it lies outside where so few are at one end.
    outside = 2 * sum(math.comb(number, few) for few in range(cut + 1)) / 2**number
    wider = 2 * sum(math.comb(number, few) for few in range(cut + 2)) / 2**number
    assert wider > 0.05
    assert outside <= 0.05 if number >= 6 else cut == 0


def test_a_cycle_is_measured_whole() -> None:
    taken: list[int] = []

    def make(given: Setting) -> object:
        variant = VARIANTS["plain"].make(given)
        variant.module.register_forward_pre_hook(lambda module, args: taken.append(1))
        return variant

    entries = {"plain": VARIANTS["plain"], "every fourth": Entry(make, cycle=4)}
    rows, _ = costs(entries, setting(), options(rounds=1, warmup=0))
    assert set(rows) == set(entries)
    assert len(taken) == 4 + 4  # a round, and its peak memory


def test_whatever_fails_is_left_out_and_the_rest_is_measured() -> None:
    def broken(given: Setting) -> object:
        variant = VARIANTS["plain"].make(given)
        variant.module.register_forward_pre_hook(lambda module, args: 1 / 0)
        return variant

    names = {
        "plain": VARIANTS["plain"],
        "broken": Entry(broken),
        "beside it": Entry(broken, baseline="broken"),
    }
    with pytest.raises(ZeroDivisionError):
        costs(names, setting(), options(rounds=1, warmup=0))
    rows, left_out = costs(names, setting(), options(rounds=1, warmup=0, keep_going=True))
    assert list(rows) == ["plain"]
    assert left_out == {
        "broken": "ZeroDivisionError: division by zero",
        "beside it": "its baseline, broken, was left out",
    }


def test_where_nothing_can_be_measured_it_is_said() -> None:
    entries = {"TransMix": VARIANTS["TransMix"], "CutMix": VARIANTS["CutMix"]}
    with pytest.raises(SystemExit, match="none of the variants could be measured"):
        costs(entries, setting(batch_size=3), options(rounds=1, warmup=0))


def test_what_there_is_no_time_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 4)
    monkeypatch.setattr(variants.time, "monotonic", lambda: next(clock))
    entries = dict.fromkeys(("plain", "second", "third"), VARIANTS["plain"])
    rows, left_out = costs(entries, setting(), options(rounds=9, warmup=0, keep_going=True, seconds=10))
    assert list(rows) == ["plain"]
    assert left_out == {
        name: f"no time was left to try it, after {t} s" for name, t in (("second", 8), ("third", 12))
    }


def test_no_round_begins_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 1)
    monkeypatch.setattr(side_by_side.time, "monotonic", lambda: next(clock))

    def rounds(within: float | None) -> int:
        return len(side_by_side.measure({"a": lambda: None}, 9, 2, CPU, within=within)["a"])

    assert (rounds(None), rounds(0), rounds(3.5)) == (9, 1, 4)


def test_the_batch_fills_the_memory_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    given = options()
    monkeypatch.setattr(full_batch, "REHEARSED_BYTES", 40 * 2**20)
    found = full_batch.batch_that_fills("test_vit", size=32, options=given)

    def peak(batch_size: int) -> int:
        of_size = make_setting("test_vit", size=32, batch_size=batch_size, options=given)
        step = training_step(VARIANTS["plain"].make(of_size), of_size)
        step()
        return side_by_side.peak_bytes(step, CPU)

    allowed = full_batch.SHARE * full_batch.REHEARSED_BYTES
    assert peak(found) <= allowed * 1.02
    assert peak(found + full_batch.MULTIPLE) > allowed * 0.98
    monkeypatch.setattr(full_batch, "REHEARSED_BYTES", 2**20)
    with pytest.raises(SystemExit, match="MB for 16 pictures of test_vit at 32 px"):
        full_batch.batch_that_fills("test_vit", size=32, options=given)


def test_a_baseline_comes_along() -> None:
    assert with_baselines(["TransMix"]) == ["plain", "CutMix", "TransMix"]
    assert with_baselines(["GTA"]) == ["plain", "GTA"]
