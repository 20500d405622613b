"""An archive of a GPU becomes reports, stored runs and tables; one of a rehearsal does not."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from gpu_steps.archive import write_archive
from gpu_steps.collect import collect
from runs_table import runs_table, stored_runs
from vitreg.train.data.subset import Share
from vitreg.train.runs.report import Configuration, Report
from vitreg.train.training.hyperparameters import Hyperparameters

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with the scripts that write tables, and the reports of a CPU."""
    root = tmp_path / "repository"
    shutil.copytree(ROOT / "benchmarks", root / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "docs" / "_tables").mkdir(parents=True)
    return root


def archive_of(work: Path, path: Path, *, device: str = "cuda", quick: bool = False) -> Path:
    """Write an archive with facts, one report, one test and two runs."""
    for folder in ("results", "steps/facts", "runs"):
        (work / folder).mkdir(parents=True)
    cpu = json.loads((ROOT / "benchmarks/results/overhead-vit_small-224-cpu.json").read_text())
    setting = {**cpu["setting"], "device": "Some GPU", "date": "2030-01-02"}
    setting["options"] = {**setting["options"], "device": device, "quick": quick}
    facts = {
        "setting": setting,
        "platform": "Linux",
        "device": {"memory_bytes": 80 * 2**30, "cuda": "13.0", "cores": 16, "nvidia_smi": {}},
        "missing": {},
        "ceilings": {"matrix_side": 8192, "matrix_tflops": 790.0, "copy_bytes": 1, "copy_tb_per_s": 3.0},
    }
    (work / "results/facts.json").write_text(json.dumps(facts))
    (work / "results/tests.json").write_text(json.dumps({"test_x::y": {"outcome": "passed"}}))
    (work / "results/overhead-vit_small-224-gpu.json").write_text(json.dumps({**cpu, "setting": setting}))
    (work / "steps/facts/step.json").write_text(json.dumps({"name": "facts", "status": "done", "reason": ""}))
    for method, lam, top1 in (("fine-tune", None, 60.0), ("GTA", 10.0, 62.5)):
        folder = work / "runs" / method
        folder.mkdir()
        hyper = Hyperparameters(steps=400, batch_size=64, lr=1e-4, weight_decay=0.05)
        configuration = Configuration(
            *("cub36", "fingerprint", "m", "abcdefghij", 224, "none", method, lam, Share(shots=5), 0, hyper)
        )
        machine = {"device": "Some GPU", "threads": 2, "versions": {"torch": "2.11", "timm": "1.0"}}
        report = Report(configuration, {"top1": top1}, [], 7.0, machine)
        (folder / "report.json").write_text(json.dumps(asdict(report)))
        (folder / "predictions.csv").write_text('path,true,predicted,probability\n"a, b.jpg",wren,gull,0.5\n')
        (folder / "DONE").touch()
        os.utime(folder / "DONE", (0, 24 * 3600 * 365 * 60))
    write_archive(work, path)
    return path


def test_everything_finds_its_place(root: Path, tmp_path: Path) -> None:
    collect(archive_of(tmp_path / "work", tmp_path / "gpu.tar.gz"), root)
    results = root / "benchmarks" / "results"
    assert (results / "overhead-vit_small-224-gpu.json").is_file()
    assert json.loads((results / "device-gpu.json").read_text())["steps"]["facts"]["status"] == "done"
    table = (root / "docs/_tables/performance-overhead-vit_small-224.md").read_text()
    assert table.startswith("| step | CPU: seconds |")
    assert "GPU: `python benchmarks/overhead.py" in table
    assert "Some GPU" in table
    assert "2030-01-02" in table
    assert "| device | Some GPU |" in (root / "docs/_tables/performance-device.md").read_text()
    runs = (root / "docs/_tables/performance-runs.md").read_text()
    assert "| cub36 | 5 per class | 400 | fine-tune |  | 1 | 60.0 |  |" in runs
    assert "| cub36 | 5 per class | 400 | GTA | 10 | 1 | 62.5 | +2.5 |" in runs
    assert "`python benchmarks/gpu.py`, Some GPU, torch 2.11, timm 1.0, 2029-12-17." in runs
    with gzip.open(root / "docs/results/gpu/gpu-predictions.csv.gz", "rt", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["run", "path", "true", "predicted", "probability"]
    assert rows[1:] == [[method, "a, b.jpg", "wren", "gull", "0.5"] for method in ("GTA", "fine-tune")]


def test_a_rehearsal_is_refused(root: Path, tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "work", tmp_path / "gpu.tar.gz", device="cpu", quick=True)
    with pytest.raises(SystemExit, match="is of a rehearsal, whose figures mean nothing"):
        collect(archive, root)
    assert not (root / "benchmarks/results/device-gpu.json").exists()


def test_an_archive_without_its_first_step_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    write_archive(tmp_path / "work", tmp_path / "gpu.tar.gz")
    with pytest.raises(SystemExit, match="with its first step done"):
        collect(tmp_path / "gpu.tar.gz", root)


def test_the_table_compares_on_the_same_seeds() -> None:
    run = {
        "data": "x",
        "share": "all",
        "steps": "400",
        "lam": "",
        "date": "d",
        "torch": "2",
        "timm": "1",
        "device": "G",
    }
    top1 = {("fine-tune", "0"): 50.0, ("fine-tune", "1"): 52.0, ("GTA", "0"): 51.0, ("GTA", "1"): 55.0}
    runs = [{**run, "method": m, "seed": s, "top1": str(value)} for (m, s), value in top1.items()]
    runs.append({**run, "method": "GTA", "seed": "7", "top1": "90"})  # without a counterpart
    lines = runs_table(runs).splitlines()
    assert "| x | all | 400 | fine-tune |  | 2 | 51.0 ± 1.4 |  |" in lines
    assert "| x | all | 400 | GTA |  | 3 | 65.3 ± 21.5 | +2.0 ± 1.4 |" in lines


def test_nothing_is_told_where_nothing_has_run(tmp_path: Path) -> None:
    assert runs_table(stored_runs(tmp_path / "missing.csv")).startswith("No run")
    (tmp_path / "runs.csv").write_text("method,top1\nsource,\n")
    assert "No run has been made yet" in runs_table(stored_runs(tmp_path / "runs.csv"))
