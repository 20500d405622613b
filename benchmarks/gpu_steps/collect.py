"""From an archive of a GPU to the pages: reports, runs and the tables that follow from them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.results.run_lines import runs_csv
from gpu_steps.archive import unpack_into
from vitreg.files import write_atomically
from vitreg.train.data.subset import Share
from vitreg.train.runs.predictions import PREDICTIONS
from vitreg.train.runs.report import Configuration, Report
from vitreg.train.training.hyperparameters import Hyperparameters, Mixing

DEVICE = "device-gpu.json"
RUNS = "gpu-runs.csv"
ALL_PREDICTIONS = "gpu-predictions.csv.gz"


def collect(archive: Path, root: Path) -> None:
    """Put reports into `benchmarks/results`, runs into `docs/results/gpu`, and write the tables anew.

    Whole run folders go to `runs/gpu`, which git does not keep; what is kept of them is a line a run, and all
    predictions in one compressed file.

    Raises:
        SystemExit: It is no archive of a GPU, or the tables cannot be written.
    """
    results, runs, stored = (
        root / "benchmarks" / "results",
        root / "runs" / "gpu",
        root / "docs" / "results" / "gpu",
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        unpack_into(work, archive)
        _check(work, archive)
        for report in sorted((work / "results").glob("*-gpu*.json")):
            write_atomically(results / report.name, report.read_bytes())
        write_atomically(results / DEVICE, _device(work))
        for done in sorted((work / "runs").glob("*/DONE")):
            shutil.copytree(done.parent, runs / done.parent.name, dirs_exist_ok=True)
    if finished := [done.parent for done in sorted(runs.glob("*/DONE"))]:
        stored.mkdir(parents=True, exist_ok=True)
        write_atomically(stored / RUNS, _lines(finished))
        write_atomically(stored / ALL_PREDICTIONS, gzip.compress(_predictions(finished).encode(), mtime=0))
    code = subprocess.run([sys.executable, "benchmarks/tables.py"], cwd=root, check=False).returncode
    if code:
        raise SystemExit(f"benchmarks/tables.py ended with exit code {code}")


def _check(work: Path, archive: Path) -> None:
    facts = work / "results" / "facts.json"
    if not facts.is_file():
        raise SystemExit(
            f"expected an archive of benchmarks/gpu.py with its first step done, found {archive}"
        )
    options = _read(facts)["setting"]["options"]
    if options["device"] == "cpu" or options["quick"]:
        raise SystemExit(f"{archive} is of a rehearsal, whose figures mean nothing; expected one of a GPU")


def _device(work: Path) -> str:
    """Return facts, outcomes of the tests and of the steps as JSON."""
    steps = [_read(step) for step in sorted((work / "steps").glob("*/step.json"))]
    tests = work / "results" / "tests.json"
    found = {
        "facts": _read(work / "results" / "facts.json"),
        "tests": _read(tests) if tests.is_file() else {},
        "steps": {step["name"]: step for step in steps},
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _lines(finished: Sequence[Path]) -> str:
    """Return a line a run, as the recipes write them, with the day on which it was done."""
    rows = list(csv.DictReader(io.StringIO(runs_csv([_report(folder) for folder in finished]))))
    for row, folder in zip(rows, finished, strict=True):
        row["date"] = time.strftime("%Y-%m-%d", time.gmtime((folder / "DONE").stat().st_mtime))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _report(folder: Path) -> Report:
    stored = _read(folder / "report.json")
    c, hyper = stored["configuration"], stored["configuration"]["hyper"]
    if hyper is not None:
        hyper = Hyperparameters(**{**hyper, "mixing": Mixing(**hyper["mixing"])})
    share = None if c["share"] is None else Share(**c["share"])
    configuration = Configuration(**{**c, "hyper": hyper, "share": share})
    return Report(**{**stored, "configuration": configuration})


def _predictions(finished: Sequence[Path]) -> str:
    """Return the predictions of all runs, with the run's folder in the first column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "path", "true", "predicted", "probability"])
    for folder in finished:
        if (folder / PREDICTIONS).is_file():
            with open(folder / PREDICTIONS, newline="", encoding="utf-8") as file:
                writer.writerows([folder.name, *row] for row in list(csv.reader(file))[1:])
    return text.getvalue()


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
