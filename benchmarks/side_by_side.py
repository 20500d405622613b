"""Steps measured side by side: in turn, round after round in one process, and compared within each round.

A machine whose speed drifts slows all steps of a round alike, so the ratio of two steps of one round says
more than the ratio of two averages. The order rotates, so that no step always comes first.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

Step = Callable[[], None]
Row = dict[str, float | str]


def measure(
    steps: Mapping[str, Step],
    rounds: int,
    warmup: int,
    device: torch.device,
    cycles: Mapping[str, int] | None = None,
    within: float | None = None,
) -> dict[str, list[float]]:
    """Return the seconds of one step of each name, round by round.

    Args:
        steps: what is measured.
        rounds: how often each step is measured.
        warmup: rounds before these that are not counted.
        device: where the steps compute; waited for before and after each.
        cycles: after how many steps the cost of a name repeats, if not after one; a round takes as many.
        within: seconds after which no further round begins, once one has been counted; None for no limit.
    """
    began = time.monotonic()
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_index in range(warmup + rounds):
        if within is not None and round_index > warmup and time.monotonic() - began > within:
            break
        first = round_index % len(names)
        for name in names[first:] + names[:first]:
            cycle = (cycles or {}).get(name, 1)
            wait_for(device)
            start = time.perf_counter()
            _whole(steps[name], cycle)()
            wait_for(device)
            if round_index >= warmup:
                seconds[name].append((time.perf_counter() - start) / cycle)
    return seconds


def ratios(seconds: Mapping[str, list[float]], baselines: Mapping[str, str]) -> dict[str, Row]:
    """Return a row a name: median seconds, and the median of its ratios to its baseline.

    A ratio is that of two steps of the same round. Beside their median stand their quartiles, and, as
    `ratio_low` and `ratio_high`, its own 95 % interval. `baselines` names each step's baseline.
    """
    rows: dict[str, Row] = {}
    for name, ours in seconds.items():
        of_rounds = [a / b for a, b in zip(ours, seconds[baselines[name]], strict=True)]
        low, middle, high = statistics.quantiles(of_rounds, n=4) if len(of_rounds) > 1 else of_rounds * 3
        rows[name] = {
            "baseline": baselines[name],
            "seconds": statistics.median(ours),
            "ratio": middle,
            "ratio_first_quartile": low,
            "ratio_third_quartile": high,
            **dict(zip(("ratio_low", "ratio_high"), median_interval(of_rounds), strict=True)),
        }
    return rows


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median, by ranks; below six values, their range."""
    number, ordered = len(values), sorted(values)
    cut, tail = (
        0,
        1 / 2**number,
    )  # how many are cut off at each end, and how probable it is that so few lie there
    while 2 * (tail := tail + math.comb(number, cut + 1) / 2**number) <= 0.05:
        cut += 1
    return ordered[cut], ordered[number - 1 - cut]


def compare(
    steps: Mapping[str, Step],
    baselines: Mapping[str, str],
    *,
    rounds: int,
    warmup: int,
    device: torch.device,
    cycles: Mapping[str, int] | None = None,
    within: float | None = None,
) -> dict[str, Row]:
    """Return a row a name: the ratios of time, and of the peak memory of one more step or cycle."""
    rows = ratios(measure(steps, rounds, warmup, device, cycles, within), baselines)
    peaks = {
        name: peak_bytes(_whole(step, (cycles or {}).get(name, 1)), device) for name, step in steps.items()
    }
    for name, row in rows.items():
        row["peak_bytes"] = peaks[name]
        row["peak_ratio"] = peaks[name] / peaks[baselines[name]]
    return rows


def peak_bytes(step: Step, device: torch.device) -> int:
    """Return how many bytes more than before it `step` had allocated at its peak.

    On a CPU these are torch's own allocations, as `torch.profiler` reports them; what a library such as
    oneDNN allocates for itself is not seen. Memory that was there before the step counts neither when it is
    used nor when it is freed.
    """
    if device.type == "cuda":
        wait_for(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        wait_for(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it reports every start and stop otherwise
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events:
        step()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        events.export_chrome_trace(str(file))
        trace = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in trace if event.get("name") == "[memory]"]
    # What an earlier profile saw being allocated is reported when it is freed, whenever the garbage collector
    # comes by. So only what this step has allocated, known by its address, is taken off.
    held: dict[int, int] = {}
    now = peak = 0
    for event in sorted(changes, key=lambda event: event["ts"]):
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            held[address] = size
            now += size
            peak = max(peak, now)
        else:
            now -= held.pop(address, 0)
    return peak


def _whole(step: Step, cycle: int) -> Step:
    def steps() -> None:
        for _ in range(cycle):
            step()

    return steps


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
