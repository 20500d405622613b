"""Write the tables of docs/performance.md from what the benchmarks measured.

    python benchmarks/tables.py                 # from benchmarks/results/*.json into docs/_tables/

A file in `results` is called as its benchmark and what it measures, with the column at its end:
`loop-cpu.json`, `loop-gpu.json`. `python benchmarks/gpu.py --collect` puts those of a GPU there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from runs_table import runs_table, stored_runs
from step_tables import columns_table, report_table, setting_line
from targets import Report, targets_table
from vitreg.files import write_atomically

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TABLES = ROOT / "docs" / "_tables"
RUNS = ROOT / "docs" / "results" / "gpu" / "gpu-runs.csv"

FACTS = "device-gpu"
"""The file that says what the GPU was and which tests passed there; it has no rows."""

SMALL = "overhead-vit_small-224"
SHOWN: dict[str, dict[str, str]] = {
    SMALL: {
        "CPU": f"{SMALL}-cpu",
        "CPU, many rounds": f"{SMALL}-cpu-few",
        "CPU, again, with newer penalties": f"{SMALL}-cpu-newer",
        "GPU": f"{SMALL}-gpu",
        "GPU, compiled": f"{SMALL}-gpu-compiled",
    },
    f"{SMALL}-bf16": {
        "CPU": f"{SMALL}-cpu-bf16",
        "CPU, many rounds": f"{SMALL}-cpu-bf16-few",
        "GPU": f"{SMALL}-gpu-full",
    },
    "overhead-vit_large-224": {"GPU": "overhead-vit_large-224-gpu"},
    **{
        name: {"CPU": f"{name}-cpu", "GPU": f"{name}-gpu"}
        for name in ("overhead-vit_small-512", "overhead-clip_vit_b-224", "penalties", "scaling")
    },
    "loop": {"CPU": "loop-cpu", "GPU": "loop-gpu", "GPU, 4 views": "loop-gpu-views"},
}
"""The tables by name, each with the reports that stand side by side in it, by their columns' headings."""

EVALUATION, SCALE = "evaluation-cpu", "scale-paper"
"""The reports of what evaluation in bfloat16 changes, and of the paper's step on paper."""

NOTHING = "Not measured yet: `python benchmarks/gpu.py` measures it on a GPU.\n"


def device_table(found: Report | None) -> str:
    """Return what the GPU was, what it does at most, and which of the tests passed there."""
    if found is None:
        return NOTHING
    facts, device, most = found["facts"], found["facts"]["device"], found["facts"]["ceilings"]
    setting, driver = facts["setting"], device.get("nvidia_smi") or {}
    outcomes = [test["outcome"] for test in found["tests"].values()]
    counted = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in ("passed", "failed", "skipped"))
    side = int(most["matrix_side"])
    rows = {
        "device": setting["device"],
        "memory": f"{device['memory_bytes'] / 2**30:.1f} GiB",
        "driver, CUDA": f"{driver.get('driver_version', 'unknown')}, {device['cuda']}",
        "cores of the processor": str(device["cores"]),
        f"product of two {side}×{side} matrices in bfloat16": f"{most['matrix_tflops']:.0f} TFLOP/s",
        "copy in its memory, read and written": f"{most['copy_tb_per_s']:.2f} TB/s",
        "tests marked `gpu`": counted,
    }
    lines = ["| what | found |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows.items())]
    failed = [name for name, test in found["tests"].items() if test["outcome"] == "failed"]
    notes = [f"Failed: {', '.join(f'`{name}`' for name in failed)}."] if failed else []
    notes += [f"Without {name}, {effect}." for name, effect in facts["missing"].items()]
    undone = [
        step for step in found["steps"].values() if step["status"] != "done" and step["name"] != "tests"
    ]
    notes += [f"The step `{step['name']}` is {step['status']}: {step['reason']}." for step in undone]
    versions = ", ".join(f"{name} {number}" for name, number in setting["versions"].items())
    notes.append(f"`python benchmarks/gpu.py`, {facts['platform']}, {versions}, {setting['date']}.")
    return "\n".join([*lines, "", *notes]) + "\n"


def evaluation_table(report: Report | None) -> str:
    """Return how many predictions evaluation in bfloat16 changes, and top-1 in both precisions."""
    if report is None:
        return NOTHING
    head = ("test pictures", "predicted otherwise", "top-1 in float32", "top-1 in bfloat16")
    lines = [f"| | {' | '.join(head)} |", f"|---|{'--:|' * len(head)}"]
    for name, row in report["rows"].items():
        top1 = " | ".join(f"{row[precision]:.1f}" for precision in ("float32", "bfloat16"))
        lines.append(f"| {name} | {row['pictures']} | {row['changed']} | {top1} |")
    return "\n".join([*lines, "", setting_line(report)]) + "\n"


def scale_table(report: Report | None) -> str:
    """Return memory and time of the paper's step by model and number of GPUs, with what is assumed below."""
    if report is None:
        return NOTHING
    gb = ("plain_gb", "replicated_gb", "sharded_gb", "remembered_gb")
    head = ["GPUs", "plain", "source replicated", "all sharded", "source remembered"]
    head += ["pictures at once", "3,000 steps plain", "with GTA"]
    lines = [f"| | {' | '.join(head)} |", f"|---|{'--:|' * len(head)}"]
    for name, row in report["rows"].items():
        for on in row["on"]:
            memory = [f"{on[kind]:.1f} GB" for kind in gb]
            hours = [f"{on[kind]:.2g} h" for kind in ("plain_hours", "GTA_hours")]
            cells = [str(on["gpus"]), *memory, f"{on['at_once']:.0f}", *hours]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    assumed = report["assumed"]
    said = (
        f"Assumed: {assumed['teraflops']:g} TFLOP/s and {assumed['gigabytes']:g} GB a GPU, "
        f"{assumed['state_bytes']:g} bytes a trained parameter, {assumed['source_bytes']:g} of a source, "
        "exchange between GPUs hidden, pictures there in time."
    )
    return "\n".join([*lines, "", f"{said} {setting_line(report)}"]) + "\n"


def tables(results: Path, runs: Path = RUNS) -> dict[str, str]:
    """Return the tables by file name.

    Raises:
        SystemExit: There is no result, one cannot be read, or one belongs to no table.
    """
    others = (FACTS, EVALUATION, SCALE)
    reports = {path.stem: _read(path) for path in sorted(results.glob("*.json")) if path.stem not in others}
    if not reports:
        raise SystemExit(
            f"no results in {results}: run a benchmark with --json {results.name}/NAME-DEVICE.json"
        )
    known = {stem for of in SHOWN.values() for stem in of.values()}
    if strange := sorted(reports.keys() - known):
        raise SystemExit(
            f"{results / strange[0]}.json belongs to no table; expected {', '.join(sorted(known))}"
        )
    made = {f"performance-{name}.md": _table(of, reports) for name, of in SHOWN.items()}
    facts = results / f"{FACTS}.json"
    device = json.loads(facts.read_text(encoding="utf-8")) if facts.is_file() else None
    evaluated, scaled = (results / f"{name}.json" for name in (EVALUATION, SCALE))
    return {
        "performance-evaluation.md": evaluation_table(_read(evaluated) if evaluated.is_file() else None),
        "performance-scale.md": scale_table(_read(scaled) if scaled.is_file() else None),
        "performance-targets.md": targets_table(_with_many_rounds(reports)),
        "performance-device.md": device_table(device),
        "performance-runs.md": runs_table(stored_runs(runs)),
        **made,
    }


def _with_many_rounds(reports: Mapping[str, Report]) -> dict[str, Report]:
    """Return the reports, with the rows of a few variants in many rounds in place of those in fewer."""
    few = {stem.removesuffix("-few"): report for stem, report in reports.items() if stem.endswith("-few")}
    more = {
        stem: {**report, "rows": {**reports.get(stem, report)["rows"], **report["rows"]}}
        for stem, report in few.items()
    }
    return {**reports, **more}


def _table(shown: Mapping[str, str], reports: Mapping[str, Report]) -> str:
    there = {title: reports[stem] for title, stem in shown.items() if stem in reports}
    if not there:
        return NOTHING
    return report_table(*there.values()) if len(there) == 1 else columns_table(there)


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
