"""What a step costs with a method, from the reports of benchmarks/overhead.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from _macros.methods import ROOT, card

Report = Mapping[str, Any]

MAIN = "overhead-vit_small-224-cpu"
"""The report whose figures stand in overviews and sentences."""

LATER = (f"{MAIN}-few", f"{MAIN}-newer")
"""The same of a few variants in many rounds, and of newer penalties."""

_MODELS = {"vit_small_patch16_224": "ViT-S/16", "clip:ViT-B-16": "CLIP ViT-B/16"}


def method_costs(name: str) -> str:
    """Return the time and the memory of a method's steps, a table for each machine and date."""
    steps = card(name).steps
    tables: dict[str, list[list[str]]] = {}
    for report in reports().values():
        if rows := [_row(step, report) for step in steps if step in report["rows"]]:
            tables.setdefault(measured_on(report), []).extend(rows)
    if not tables:
        return "What a step costs was not measured."
    head = ["step", "setting", "time", "quartiles", "peak memory"]
    sides = ["---", "---", "--:", "--:", "--:"]
    first = 0 if len(steps) > 1 else 1  # which step it is goes without saying
    return "\n\n".join(
        "\n".join(f"| {' | '.join(cells[first:])} |" for cells in (head, sides, *rows))
        + f"\n\n{_times(steps)}, on {where}."
        for where, rows in tables.items()
    )


def step_cost(step: str, report: str = MAIN, figure: str = "ratio") -> str:
    """Return how many times the step it is compared with a step takes, or of memory with "peak_ratio".

    Raises:
        KeyError: it was not measured.
    """
    return f"{reports()[report]['rows'][step][figure]:.2f}"


def plain_conditions(report: str = MAIN) -> str:
    """Return of what a report speaks: model, picture, batch, precision, machine and date."""
    return f"{_setting(reports()[report])}, {measured_on(reports()[report])}"


@cache
def reports() -> Mapping[str, Report]:
    """Return the reports of benchmarks/overhead.py by name, ViT-S/16 first and small pictures first."""
    files = (ROOT / "benchmarks" / "results").glob("overhead-*.json")
    found = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    if MAIN not in found:
        raise FileNotFoundError(f"expected benchmarks/results/{MAIN}.json, found {sorted(found)}")

    def order(name: str) -> tuple[bool, bool, bool, int, str]:
        options = found[name]["setting"]["options"]
        is_small = options["model"] == "vit_small_patch16_224"
        return not name.endswith("-cpu"), not is_small, options["amp"], options["size"], name

    return {name: found[name] for name in sorted(found, key=order)}


def measured_on(report: Report) -> str:
    """Return the machine, the versions and the date of a report."""
    setting = report["setting"]
    threads = "" if setting["options"]["device"] != "cpu" else f", {setting['threads']} threads"
    versions = ", ".join(f"{name} {setting['versions'][name]}" for name in ("torch", "timm"))
    return f"{setting['device']}{threads}, {versions}, {setting['date']}"


def _setting(report: Report) -> str:
    options = report["setting"]["options"]
    model = _MODELS.get(options["model"], options["model"])
    precision = "bfloat16" if options["amp"] else "float32"
    compiled = ", compiled" if options["compile"] else ""
    return f"{model}, {options['size']} px, batch {options['batch_size']}, {precision}{compiled}"


def _times(steps: Sequence[str]) -> str:
    """Return what the steps are compared with: a plain one, unless a report says another."""
    rows = reports()[MAIN]["rows"]
    others = [f"{step}: a step with {rows[step]['baseline']}" for step in steps if step in rows]
    others = [text for text in others if not text.endswith(" plain")]
    beside = ", ".join(others)
    return "Times a plain training step" + (f" ({beside})" if beside else "")


def _row(step: str, report: Report) -> list[str]:
    row = report["rows"][step]
    quartiles = f"{row['ratio_first_quartile']:.3f} – {row['ratio_third_quartile']:.3f}"
    beside = "" if row["baseline"] == "plain" else f", beside {row['baseline']}"
    return [step + beside, _setting(report), f"{row['ratio']:.3f}", quartiles, f"{row['peak_ratio']:.3f}"]
