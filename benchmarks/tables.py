"""Write the tables of docs/performance.md from what the benchmarks measured.

    python benchmarks/tables.py                 # from benchmarks/results/*.json into docs/_tables/

A file in `results` is called as its table, with the device at its end: `loop-cpu.json`, `loop-h200.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vitreg.files import write_atomically

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TABLES = ROOT / "docs" / "_tables"
DEVICES = {"cpu": "CPU, eager, float32", "h200": "H200, bfloat16, compiled"}

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
    Target("GTA, ViT-S/16, 224 px", SMALL, _ratio("GTA"), {"cpu": 1.30, "h200": 1.30}),
    Target("GTA, 512 px", LARGE, _ratio("GTA"), {"cpu": 1.30, "h200": 1.30}),
    Target(
        "GTA, 512 px, times faster than unfused attention",
        LARGE,
        _faster("GTA, unfused attention", "GTA"),
        {"cpu": 1.5, "h200": 2.0},
        at_least=True,
    ),
    Target(
        "attention guide, 512 px, times faster than `output_attentions=True`",
        LARGE,
        _faster("transformers, output_attentions", "transformers, attention guide"),
        {"cpu": 1.5, "h200": 2.0},
        at_least=True,
    ),
    Target(
        "block-output guide on block 6 of 12",
        SMALL,
        _ratio("block-output guide, middle block"),
        {"cpu": 1.18, "h200": 1.18},
    ),
    Target("reading alone", SMALL, _ratio("reading alone"), {"cpu": 1.01, "h200": 1.01}),
    Target("L2-SP", SMALL, _ratio("L2-SP"), {"cpu": 1.03, "h200": 1.02}),
    Target(
        "BSS at [768, 384], times faster than the SVD",
        "penalties",
        _faster("BSS: reference", "BSS: vitreg"),
        {"cpu": 4.0},
        at_least=True,
    ),
    Target("BSS, step of ViT-S/16", SMALL, _ratio("BSS"), {"h200": 1.02}),
    Target("TransMix over CutMix", SMALL, _ratio("TransMix"), {"cpu": 1.02, "h200": 1.02}),
    Target(
        "peak memory of GTA, without the source's weights",
        SMALL,
        lambda rows: float(rows["GTA"]["peak_ratio"]),
        {"cpu": 1.02, "h200": 1.02},
    ),
    Target(
        "the recipes' loop, share of the bare step's pictures a second",
        "loop",
        lambda rows: 1 / float(rows["recipes' loop"]["ratio"]),
        {"cpu": 0.95, "h200": 0.95},
        at_least=True,
    ),
    Target(
        "GTA with a remembered source",
        SMALL,
        _ratio("GTA, remembered source"),
        {"cpu": 1.05, "h200": 1.05},
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
    if report is None:
        return f"{aim}: not measured"
    found = target.figure(report["rows"])
    is_met = found >= bound if target.at_least else found <= bound
    return f"{aim}: **{found:.3f}**" if is_met else f"{aim}: {found:.3f}, missed"


def report_table(report: Report) -> str:
    """Return a report as a table, with what it was measured on below."""
    rows: Rows = report["rows"]
    is_loop = all("pictures_per_second" in row for row in rows.values())
    head = ["step", "seconds", "ratio", "quartiles"]
    head += ["pictures a second"] if is_loop else ["peak MB", "ratio"]
    lines = [f"| {' | '.join(head)} | to |", f"|---|{'--:|' * (len(head) - 1)}---|"]
    for name, row in rows.items():
        quartiles = f"{row['ratio_first_quartile']:.3f} – {row['ratio_third_quartile']:.3f}"
        is_baseline = row["baseline"] == name
        cells = [name, _seconds(row["seconds"]), f"{row['ratio']:.3f}", "" if is_baseline else quartiles]
        if is_loop:
            cells.append(f"{row['pictures_per_second']:.1f}")
        else:
            cells += [f"{row['peak_bytes'] / 1e6:.1f}", f"{row['peak_ratio']:.3f}"]
        lines.append(f"| {' | '.join(cells)} | {'' if is_baseline else row['baseline']} |")
    return "\n".join([*lines, "", _setting(report["setting"])]) + "\n"


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value >= 0.1 else f"{value:.5f}"


def _setting(setting: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in setting["versions"].items())
    where = f"{setting['device']}, {setting['threads']} threads"
    return f"`{setting['command']}`, {where}, {versions}, {setting['date']}."


def tables(results: Path) -> dict[str, str]:
    """Return the tables by file name.

    Raises:
        SystemExit: There is no result, or one cannot be read.
    """
    reports = {path.stem: _read(path) for path in sorted(results.glob("*.json"))}
    if not reports:
        raise SystemExit(
            f"no results in {results}: run a benchmark with --json {results.name}/NAME-DEVICE.json"
        )
    made = {f"performance-{name}.md": report_table(report) for name, report in reports.items()}
    return {"performance-targets.md": targets_table(reports), **made}


def _read(path: Path) -> Report:
    try:
        report: Report = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(report, dict) or not {"setting", "rows"} <= report.keys():
            raise ValueError("it has no setting or no rows")
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} is no report of a benchmark ({error}); measure it again") from error
    # The command without the place of its result, which is another each time.
    words = report["setting"]["command"].split(" --json ")[0]
    return {**report, "setting": {**report["setting"], "command": words}}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables, and return the exit code."""
    if sys.argv[1:] if argv is None else argv:
        raise SystemExit("tables.py takes no options")
    for name, text in tables(RESULTS).items():
        write_atomically(TABLES / name, text)
        print(TABLES / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
