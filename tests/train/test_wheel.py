"""What is installed trains and predicts by itself: no file of the checkout is on the path."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from finetuned import WRITTEN, arguments

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_wheel_fine_tunes_and_predicts_in_an_empty_folder(
    class_folders: Path, weights: Path, tmp_path: Path
) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path / "wheel"), str(ROOT)], check=True)
    (wheel,) = (tmp_path / "wheel").glob("vitreg-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {name.split("/")[0].split("-")[0] for name in archive.namelist()} == {"vitreg"}
        archive.extractall(tmp_path / "installed")
    empty = tmp_path / "empty"
    empty.mkdir()

    def vitreg(*words: str | Path) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
        program = "import sys, vitreg; print(vitreg.__file__, file=sys.stderr); from vitreg.cli import main; "
        program += "sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", program, *map(str, words)]
        ended = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.startswith(str(tmp_path / "installed")), ended.stderr
        return ended.stdout

    _, data, *options = arguments(class_folders, weights, Path("result"))
    assert "top-1" in vitreg("finetune", data, *options)
    assert {path.name for path in (empty / "result").iterdir() if path.is_file()} >= WRITTEN
    said = vitreg("predict", "result", class_folders / "test", "--device", "cpu")
    assert "6 pictures predicted; written: predicted: predictions.csv" in said
    assert "deit_tiny_patch16_224" in vitreg("models", "deit_tiny")
