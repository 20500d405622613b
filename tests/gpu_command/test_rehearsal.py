"""The whole command, rehearsed on a CPU with pictures and weights that the test makes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from gpu_steps.archive import write_archive
from gpu_steps.rows import SETS
from gpu_steps.step import DONE, Outcome, write_outcome

ROOT = Path(__file__).resolve().parents[2]


def make_data(root: Path) -> list[str]:
    """Write all four data sets, tiny, and weights that fit; return the options that name them."""
    for number, name in enumerate(SETS):
        rows = ["path,label,split"]
        for label in range(3):
            for index in range(12):
                path = root / name / "images" / f"{label}_{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng([number, label, index]).integers(0, 256, (40, 48, 3), np.uint8)
                Image.fromarray(pixels).save(path)
                rows.append(f"{path.name},{label},{'train' if index < 8 else 'test'}")
        (root / name / "index.csv").write_text("\n".join(rows))
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", img_size=32).state_dict(), root / "weights.safetensors")
    weights = ["--weights", str(root / "weights.safetensors"), "--model", "test_vit", "--size", "32"]
    return ["--data", str(root), *weights]


def command(out: Path, *options: str) -> str:
    """Run the command where nothing is installed or set, and return what it prints."""
    words = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--quick", "--out", str(out), *options]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    clean.pop("PYTHONPATH", None)
    done = subprocess.run(words, cwd=ROOT, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def content(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened.getmembers()}


@pytest.mark.slow
def test_every_step_is_rehearsed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    options = make_data(tmp_path / "data")
    # Three minutes where the machine has nothing else to do; here other tests run beside it.
    said = command(tmp_path / "out", "--minutes", "30", *options)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["gpu.tar.gz"]
    files = content(tmp_path / "out" / "gpu.tar.gz")
    steps = {name.split("/")[1]: json.loads(files[name]) for name in files if name.endswith("step.json")}
    assert len(steps) == 13
    assert {name: step["status"] for name, step in steps.items()} == dict.fromkeys(steps, "done"), said
    for step in steps:
        assert files[f"steps/{step}/log.txt"]

    tests = json.loads(files["results/tests.json"])
    assert {test["outcome"] for test in tests.values()} == {"passed", "skipped"}
    assert sum(test["outcome"] == "passed" for test in tests.values()) > 30
    reports = {name: json.loads(files[name]) for name in files if name.endswith("-cpu.json")}
    assert {name.split("/")[1].split("-")[0] for name in reports} == {
        "overhead",
        "scaling",
        "penalties",
        "loop",
    }
    assert all(report["rows"] for report in reports.values())
    compiled = json.loads(files["results/overhead-vit_small-224-cpu-compiled.json"])
    assert compiled["setting"]["options"]["compile"] == "aot_eager"
    full = json.loads(files["results/overhead-vit_small-224-cpu-full.json"])
    assert full["setting"]["options"]["batch_size"] > 8

    done = [name for name in files if name.startswith("runs/") and name.endswith("/DONE")]
    methods = {
        json.loads(files[name.replace("DONE", "report.json")])["configuration"]["method"] for name in done
    }
    assert {"fine-tune", "GTA"} <= methods
    assert len(done) == len(SETS) * len(methods)
    for name in done:
        rows = list(csv.DictReader(files[name.replace("DONE", "predictions.csv")].decode().splitlines()))
        assert len(rows) == 12
        assert {"path", "true", "predicted", "probability"} <= set(rows[0])

    again = command(tmp_path / "out", "--minutes", "10", *options)
    assert again.count("in an earlier call") == 12
    assert "runs: done" in again
    later = content(tmp_path / "out" / "gpu.tar.gz")
    assert f"{len(done)} of " in later["steps/runs/log.txt"].decode()
    assert "0 of them now" in later["steps/runs/log.txt"].decode()
    assert sorted(name for name in later if name.startswith("runs/")) == sorted(
        name for name in files if name.startswith("runs/")
    )


@pytest.mark.slow
def test_the_time_is_never_exceeded(tmp_path: Path) -> None:
    said = command(tmp_path / "out", "--minutes", "1", "--only", "facts", "scaling", "loop", "runs")
    assert float(said.split(" after ")[-1].split(" s")[0]) <= 60
    assert "runs: skipped after 0 s: no pictures" in said
    assert "steps/loop/step.json" in content(tmp_path / "out" / "gpu.tar.gz")


def test_a_later_call_goes_on_from_the_archives_of_others(tmp_path: Path) -> None:
    for step in ("facts", "loop"):
        write_outcome(tmp_path / step / "steps", Outcome(step, DONE))
        write_archive(tmp_path / step, tmp_path / f"{step}.tar.gz")
    have = ["--have", str(tmp_path / "facts.tar.gz"), str(tmp_path / "loop.tar.gz")]
    said = command(tmp_path / "out", "--only", "facts", "loop", *have)
    assert said.splitlines()[:2] == [f"{step}: done in an earlier call" for step in ("facts", "loop")]
    assert {"steps/facts/step.json", "steps/loop/step.json"} <= set(content(tmp_path / "out" / "gpu.tar.gz"))
