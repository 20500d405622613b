"""The figures that are aimed at, beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

DEVICES = {
    "cpu": "CPU, eager, float32",
    "gpu": "GPU, eager, bfloat16",
    "gpu-compiled": "GPU, compiled, bfloat16",
}
"""The columns, by the end of a report's name."""

Report = Mapping[str, Any]
Rows = Mapping[str, Mapping[str, Any]]


class Target(NamedTuple):
    """A figure that is aimed at: of which report, how it follows from its rows, and the bound a device."""

    what: str
    report: str
    figure: Callable[[Rows], float]
    bounds: Mapping[str, float]
    at_least: bool = False


def _ratio(name: str) -> Callable[[Rows], float]:
    return lambda rows: float(rows[name]["ratio"])


def _faster(rival: str, ours: str) -> Callable[[Rows], float]:
    return lambda rows: float(rows[rival]["seconds"]) / float(rows[ours]["seconds"])


SMALL, LARGE = "overhead-vit_small-224", "overhead-vit_small-512"
TARGETS = (
    Target("GTA, ViT-S/16, 224 px", SMALL, _ratio("GTA"), {"cpu": 1.30, "gpu": 1.30, "gpu-compiled": 1.30}),
    Target("GTA, 512 px", LARGE, _ratio("GTA"), {"cpu": 1.30, "gpu": 1.30}),
    Target(
        "GTA, 512 px, times faster than unfused attention",
        LARGE,
        _faster("GTA, unfused attention", "GTA"),
        {"cpu": 1.5, "gpu": 2.0},
        at_least=True,
    ),
    Target(
        "attention guide, 512 px, times faster than `output_attentions=True`",
        LARGE,
        _faster("transformers, output_attentions", "transformers, attention guide"),
        {"cpu": 1.5, "gpu": 2.0},
        at_least=True,
    ),
    Target(
        "block-output guide on block 6 of 12",
        SMALL,
        _ratio("block-output guide, middle block"),
        {"cpu": 1.18, "gpu": 1.18, "gpu-compiled": 1.18},
    ),
    Target("reading alone", SMALL, _ratio("reading alone"), {"cpu": 1.01, "gpu": 1.01, "gpu-compiled": 1.01}),
    Target("L2-SP", SMALL, _ratio("L2-SP"), {"cpu": 1.03, "gpu": 1.02, "gpu-compiled": 1.02}),
    Target(
        "BSS at [768, 384], times faster than the SVD",
        "penalties",
        _faster("BSS: reference", "BSS: vitreg"),
        {"cpu": 4.0},
        at_least=True,
    ),
    Target("BSS, step of ViT-S/16", SMALL, _ratio("BSS"), {"gpu": 1.02, "gpu-compiled": 1.02}),
    Target(
        "TransMix over CutMix", SMALL, _ratio("TransMix"), {"cpu": 1.02, "gpu": 1.02, "gpu-compiled": 1.02}
    ),
    Target(
        "peak memory of GTA, without the source's weights",
        SMALL,
        lambda rows: float(rows["GTA"]["peak_ratio"]),
        {"cpu": 1.02, "gpu": 1.02, "gpu-compiled": 1.02},
    ),
    Target(
        "the recipes' loop, share of the bare step's pictures a second",
        "loop",
        lambda rows: 1 / float(rows["recipes' loop"]["ratio"]),
        {"cpu": 0.95, "gpu": 0.95},
        at_least=True,
    ),
    Target(
        "GTA with a remembered source",
        SMALL,
        _ratio("GTA, remembered source"),
        {"cpu": 1.02, "gpu": 1.02, "gpu-compiled": 1.02},
    ),
    Target(
        "five penalties on one source, to one", SMALL, _ratio("five penalties on one source"), {"cpu": 1.02}
    ),
    *(
        Target(f"{name}, a projection", SMALL, _ratio(name), {"cpu": 1.03})
        for name in ("SPD", "FTP", "MARS", "L2Ball")
    ),
)


def targets_table(reports: Mapping[str, Report]) -> str:
    """Return what was aimed at beside what was measured."""
    lines = [f"| what | {' | '.join(DEVICES.values())} |", f"|---|{'---|' * len(DEVICES)}"]
    for target in TARGETS:
        cells = [_cell(target, device, reports.get(f"{target.report}-{device}")) for device in DEVICES]
        lines.append(f"| {target.what} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(target: Target, device: str, report: Report | None) -> str:
    if device not in target.bounds:
        return "–"
    bound = target.bounds[device]
    aim = f"{'≥' if target.at_least else '≤'} {bound:.2f}"
    try:
        found = None if report is None else target.figure(report["rows"])
    except KeyError:  # a variant that was left out there
        found = None
    if found is None:
        return f"{aim}: not measured"
    is_met = found >= bound if target.at_least else found <= bound
    return f"{aim}: **{found:.3f}**" if is_met else f"{aim}: {found:.3f}, missed"
