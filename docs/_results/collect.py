"""From folders of finished runs to two small files: a line for each run, and for each measurement on the way.

    python docs/_results/collect.py demo=runs/demo cub10=runs/cub10 ...    # writes runs.csv and course.csv

Lines of names that are not given stay. A name may be given twice, for runs in two folders. The tables beside
them are the CSV files that the recipes write into `--out`, as they are.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PENALTIES = ("gta", "l2sp", "bss", "block_output", "msa_output")
"""What a log calls the terms, none of which is in a run together with another."""


def main(argv: Sequence[str]) -> int:
    """Write both files from folders named as `NAME=FOLDER`."""
    if not argv or not all("=" in text for text in argv):
        print("expected NAME=FOLDER of finished runs, one or more", file=sys.stderr)
        return 2
    found: dict[tuple[str, str], Path] = {}  # a run's folder is named by what decides its figures
    for name, _, folder in (text.partition("=") for text in argv):
        for path in sorted(Path(folder).glob("*/report.json")):
            if (path.parent / "DONE").is_file():
                found.setdefault((name, path.parent.name), path)
    if missing := {text.partition("=")[0] for text in argv} - {name for name, _ in found}:
        print(f"expected finished runs (report.json and DONE), found none of {missing}", file=sys.stderr)
        return 2
    reports = [
        (name, path, json.loads(path.read_text(encoding="utf-8"))) for (name, _), path in found.items()
    ]
    names = {name for name, _ in found}
    _replace(HERE / "runs.csv", names, [_run(name, path, report) for name, path, report in reports])
    _replace(
        HERE / "course.csv", names, [line for name, _, report in reports for line in _course(name, report)]
    )
    return 0


def _what(name: str, report: dict[str, Any]) -> dict[str, Any]:
    """Return the columns that say which run it is; weights by the first digits of their checksum."""
    c = report["configuration"]
    hyper, share = c["hyper"] or {}, c["share"] or {}
    rate, shots = share.get("rate"), share.get("shots")
    return {
        "folder": name,
        "data": c["data"],
        "weights": c["weights"][:8],
        "share": f"{100 * rate:g} %" if rate else f"{shots} per class" if shots else "",
        "method": c["method"],
        "lam": "" if c["lam"] is None else c["lam"],
        "seed": c["seed"],
        "hold_out": c.get("hold_out") or 0,
        "measure_every": c.get("measure_every") or 0,
        "steps": hyper.get("steps", ""),
    }


def _run(name: str, path: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Return a run's line: percent, seconds, and the attention on the object of each block."""
    metrics, machine, log = report["metrics"], report["machine"], report["log"]
    last = log[-1] if log else {}
    hyper = report["configuration"]["hyper"]
    return {
        **_what(name, report),
        "views": hyper.get("views", 0) if hyper else "",
        "every": hyper.get("every", 1) if hyper else "",
        "model": report["configuration"]["model"],
        "size": report["configuration"]["size"],
        "precision": report["configuration"]["precision"],
        "top1": _rounded(metrics.get("top1")),
        "object_share": _blocks(metrics.get("object_share", [])),
        "jaccard": _blocks(metrics.get("jaccard", [])),
        "last_loss": _rounded(last.get("loss")),
        "last_term": next((_rounded(last[term]) for term in PENALTIES if term in last), ""),
        "highest_term": max((_rounded(at[t]) for at in log for t in PENALTIES if t in at), default=""),
        "seconds": round(report["seconds"]),
        "threads": machine["threads"],
        "torch": machine["versions"]["torch"],
        "timm": machine["versions"]["timm"],
        "date": time.strftime("%Y-%m-%d", time.gmtime((path.parent / "DONE").stat().st_mtime)),
    }


def _course(name: str, report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for at in report["log"]:
        if report["configuration"].get("measure_every") and "top1" in at:
            blocks = [at[f"object_share/{i}"] for i in range(len(report["metrics"]["object_share"]))]
            yield {
                **_what(name, report),
                "step": at["step"] + 1,
                "top1": _rounded(at["top1"]),
                "object_share": _blocks(blocks),
            }


def _rounded(value: float | None) -> float | str:
    return "" if value is None else float(f"{value:.7g}")


def _blocks(shares: Sequence[float]) -> str:
    return " ".join(f"{100 * share:.2f}" for share in shares)


def _replace(path: Path, names: Collection[str], lines: Sequence[dict[str, Any]]) -> None:
    """Write the lines in place of those of the same names, behind all others."""
    kept: list[dict[str, Any]] = []
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            kept = [line for line in csv.DictReader(file) if line["folder"] not in names]
    columns = list(dict.fromkeys(column for line in (*lines, *kept) for column in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*kept, *lines])
    unfinished = path.with_suffix(".tmp")  # whole or not at all: what was there cannot be made again
    unfinished.write_text(text.getvalue(), encoding="utf-8", newline="")
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
