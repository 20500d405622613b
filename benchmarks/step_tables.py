"""Reports of what a step costs as tables: one alone, or several side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from targets import Report, Rows


def report_table(report: Report) -> str:
    """Return one report as a table, with what it was measured on below."""
    rows: Rows = report["rows"]
    is_loop = _is_loop(report)
    head = ["step", "seconds", "ratio", "quartiles"]
    head += ["pictures a second"] if is_loop else ["peak MB", "ratio"]
    lines = [f"| {' | '.join(head)} | to |", f"|---|{'--:|' * (len(head) - 1)}---|"]
    for name, row in rows.items():
        is_baseline = row["baseline"] == name
        cells = [
            name,
            _seconds(row["seconds"]),
            f"{row['ratio']:.3f}",
            "" if is_baseline else _quartiles(row),
        ]
        if is_loop:
            cells.append(f"{row['pictures_per_second']:.1f}")
        else:
            cells += [f"{row['peak_bytes'] / 1e6:.1f}", f"{row['peak_ratio']:.3f}"]
        lines.append(f"| {' | '.join(cells)} | {'' if is_baseline else row['baseline']} |")
    return "\n".join([*lines, "", setting_line(report)]) + "\n"


def columns_table(reports: Mapping[str, Report]) -> str:
    """Return several reports as one table, a group of columns each, with what they were measured on below.

    Args:
        reports: by the heading of their columns.
    """
    names = list(dict.fromkeys(name for report in reports.values() for name in report["rows"]))
    is_loop = all(map(_is_loop, reports.values()))
    figures = ("seconds", "ratio", "pictures a second" if is_loop else "memory")
    head = ["step", *(f"{title}: {figure}" for title in reports for figure in figures), "to"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 2)}---|"]
    for name in names:
        cells, baseline = [name], ""
        for report in reports.values():
            row = report["rows"].get(name)
            if row is None:
                cells += ["–"] * len(figures)
                continue
            ratio = f"{row['ratio']:.3f}"
            if row["baseline"] != name:
                baseline = row["baseline"]
                ratio += f" ({_quartiles(row)})"
            last = f"{row['pictures_per_second']:.1f}" if is_loop else f"{row['peak_ratio']:.3f}"
            cells += [_seconds(row["seconds"]), ratio, last]
        lines.append(f"| {' | '.join(cells)} | {baseline} |")
    below = [f"{title}: {setting_line(report)}" for title, report in reports.items()]
    return "\n".join([*lines, "", "\n\n".join(below)]) + "\n"


def _is_loop(report: Report) -> bool:
    return all("pictures_per_second" in row for row in report["rows"].values())


def _quartiles(row: Mapping[str, Any]) -> str:
    return f"{row['ratio_first_quartile']:.3f} – {row['ratio_third_quartile']:.3f}"


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value >= 0.1 else f"{value:.5f}"


def setting_line(report: Report) -> str:
    """Return in a line or two where and how a report was made, and what was left out."""
    setting = report["setting"]
    versions = ", ".join(f"{name} {number}" for name, number in setting["versions"].items())
    where = f"{setting['device']}, {setting['threads']} threads"
    options = setting.get("options", {})
    filled = f" ({options['batch_size']} pictures)" if "--batch-size full" in setting["command"] else ""
    said = f"`{setting['command']}`{filled}, {where}, {versions}, {setting['date']}."
    left_out = report.get("left_out") or {}
    reasons = "; ".join(f"{name} ({reason.rstrip('.')})" for name, reason in left_out.items())
    return said + (f" Left out: {reasons}." if reasons else "")
