"""Every script, as it is called: a few steps of the demo, of photographs, and what it misses."""

from __future__ import annotations

import csv
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from small_data import MODEL, write_index, write_picture

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SCRIPTS = [script for script in importlib.import_module("all").SCRIPTS if script != "table1"]
PICTURES = ("figure1", "figure3", "appendix_b")


def written(script: str, out: Path) -> None:
    if script not in PICTURES:
        assert (out / f"{script}.md").stat().st_size > 200
        assert (out / f"{script}.csv").stat().st_size > 100
    if script != "table4":
        assert list(out.glob(f"{script}*.png"))


@pytest.mark.slow
def test_all_scripts_in_the_demo(tmp_path: Path) -> None:
    """They share runs: with one folder, the whole takes little longer than its longest."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = tmp_path / "out"
    command = [sys.executable, str(RECIPES / "all.py"), "--quick", "--device", "cpu", "--out", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (out / "all.md").read_text()
    for script in SCRIPTS:
        written(script, out)
        assert f"`python recipes/{script}.py" in page
    assert "table1: left out: no --data to count" in done.stdout
    assert "failed" not in page
    # table 3 did not train again what table 2 had trained
    assert "finished before" in done.stdout.split("table3.py", 1)[1].split("table4.py", 1)[0]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_on_photographs(
    script: str, indexed: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = importlib.import_module(script)
    other = tmp_path / "other.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({name: 0.9 * tensor for name, tensor in load_file(weights).items()}, other)
    sources = module.TABLE.sources
    given = [str(weights)] if len(sources) == 1 else [f"{sources[0]}={weights}", f"{sources[1]}={other}"]
    options = ["--data", str(indexed), "--weights", *given, "--model", MODEL, "--size", "32", "--quick"]
    out = tmp_path / "out"
    arguments = [*options, "--steps", "2", "--batch-size", "4", "--device", "cpu", "--out", str(out)]
    assert module.main(arguments) == 0
    written(script, out)


def test_several_lams_are_several_models(
    indexed: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(indexed), "--weights", str(weights), "--model", MODEL, "--size", "32", "--quick"]
    options += ["--steps", "2", "--batch-size", "4", "--device", "cpu", "--out", str(tmp_path / "out")]
    options += ["--select", "none", "--lam", "GTA=1", "GTA=10", "--methods", "GTA"]
    for script in ("table4", "figure1"):
        assert importlib.import_module(script).main(options) == 0
    rows = (tmp_path / "out" / "table4.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1:3] for row in rows] == [["source", "1"], ["GTA λ=1", "1"], ["GTA λ=10", "1"]]
    with Image.open(tmp_path / "out" / "figure1.png") as picture:
        assert picture.height > 3.5 * picture.width / 6  # the pictures, the source and both models


def test_steps_have_to_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert importlib.import_module("steps").main(["--measure-every", "0", "--out", str(tmp_path)]) == 2
    assert "--measure-every 0: steps shows what is measured" in capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_paper_s_protocol_says_what_it_misses(
    script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module: Any = importlib.import_module(script)
    assert module.main(["--preset", "paper", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    if script in ("table4", "figure3"):
        assert "--voc DIR" in error
    else:
        assert "CUB, Cars, Aircraft, Dogs, Pet" in error
        assert all(f"{label}=FILE" in error for label in module.TABLE.sources if label)


@pytest.mark.slow
def test_tied_sets_and_several_sources(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A made set is trained on from two sources, and measured again without any training."""
    from safetensors.torch import load_file, save_file

    rows, trimap = [], np.full((48, 48), 2, np.uint8)
    trimap[12:36, 12:36] = 1
    for number in range(24):
        write_picture(tmp_path / "data" / f"{number}.png", seed=number, height=48)
        with Image.open(tmp_path / "data" / f"{number}.png") as picture:
            darker = Image.fromarray(np.asarray(picture) // 4 + 7 * number)
        darker.save(tmp_path / "data" / f"{number}.png")
        Image.fromarray(trimap).save(tmp_path / "data" / f"t{number}.png")
        split = "train" if number % 4 < 2 else "test"
        rows.append([f"{number}.png", str(number % 2), split, f"t{number}.png"])
    write_index(tmp_path / "data", rows, ["path", "label", "split", "trimap"])
    other = tmp_path / "other.safetensors"
    save_file({name: 0.9 * tensor for name, tensor in load_file(weights).items()}, other)
    shift: Any = importlib.import_module("shift")
    options = ["--data", f"pets={tmp_path / 'data'}", "--weights", f"A={weights}", f"B={other}", "--quick"]
    options += ["--model", MODEL, "--size", "32", "--steps", "2", "--batch-size", "4", "--device", "cpu"]
    options += ["--methods", "fine-tune", "GTA", "--select", "none", "--lam", "1"]
    assert shift.main([*options, "--tied", "0.8", "--out", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "shift.csv", newline="") as file:
        found = [
            (row["data"], row["source"], row["tested_on"], row["method"]) for row in csv.DictReader(file)
        ]
    assert found == [
        ("pets-tied80", source, test, method)
        for source in "AB"
        for test in ("own", "usual", "unusual", "worst pair")
        for method in ("fine-tune", "GTA")
    ]
    assert shift.main([*options, "--out", str(tmp_path / "plain")]) == 0
    before = (tmp_path / "plain" / "shift.csv").read_text()
    for path in (tmp_path / "plain").glob("pets_*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:-8] + bytes(8))  # what is measured is not measured again
    assert shift.main([*options, "--out", str(tmp_path / "plain")]) == 0
    assert (tmp_path / "plain" / "shift.csv").read_text() == before
    assert shift.main([*options, "--tied", "0.8", "--test", "x", "--out", str(tmp_path / "out")]) == 2
    assert "brings its own test pictures" in capsys.readouterr().err
