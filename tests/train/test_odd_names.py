"""Names and terminals of all kinds, many classes, unreadable pictures: no work is lost to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.profiler import profile

from finetuned import arguments, run, table
from small_data import write_picture
from vitreg.cli import main
from vitreg.errors import InputError
from vitreg.train.models.stored import Card
from vitreg.train.page.probabilities import confusion
from vitreg.train.trained_model import TrainedModel
from vitreg.train.training.evaluation import rates

ODD = [os.fsdecode(name) for name in (b"caf\xe9.png", b"\x1b[31mred.png", b"=1+1.png", b"a\nb.png")]


def renamed(folder: Path) -> None:
    """Give the pictures of the class auk names of all kinds, and the class booby another."""
    for split in ("train", "test"):
        for number, name in enumerate(ODD[:2] if split == "test" else ODD):
            os.rename(folder / split / "auk" / f"{number}.png", folder / split / "auk" / name)
        os.rename(folder / split / "booby", folder / split / os.fsdecode(b"b\xe9\x1b[2J"))


@pytest.mark.slow
def test_names_are_written_and_shown_and_do_nothing(
    class_folders: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed(class_folders)
    out = tmp_path / "out"
    assert run(*arguments(class_folders, weights, out)) == 0
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    rows = table(out / "predictions.csv")
    assert len(rows) == 6
    assert {row["true"] for row in rows} == {"auk", r"b\xe9\x1b[2J", "crow"}
    assert rows[0]["path"] == r"test/auk/\x1b[31mred.png"
    assert json.loads((out / "config.json").read_text())["num_classes"] == 3
    given = ["predict", str(out), str(class_folders / "train"), "--out", str(tmp_path / "new")]
    assert main([*given, "--device", "cpu"]) == 0
    assert len(table(tmp_path / "new" / "predictions.csv")) == 12


@pytest.mark.slow
@pytest.mark.parametrize("terminal", ["ascii", "closed"])
def test_no_terminal_ends_a_training(
    class_folders: Path, weights: Path, tmp_path: Path, terminal: str
) -> None:
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii" if terminal == "ascii" else "utf-8"}
    command = [sys.executable, "-m", "vitreg", "finetune", *arguments(class_folders, weights, out)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        if terminal == "closed":  # | head -1
            process.stdout.close()
            process.wait(timeout=300)
        else:
            assert r"\u03bb" in process.communicate(timeout=300)[0]
    assert "3 classes (auk, booby, crow), 12 training pictures" in first
    assert process.returncode == 0
    assert len(table(out / "predictions.csv")) == 6


def test_counting_takes_no_more_memory_than_the_classes() -> None:
    torch.manual_seed(0)
    shares, labels = torch.rand(64, 500).softmax(1), torch.randint(0, 500, (64,)).tolist()
    torch.use_deterministic_algorithms(True)  # in which torchmetrics compares each picture with each cell
    try:
        with profile(profile_memory=True) as seen:
            counts = confusion(shares, labels)
            top1, each = rates(counts.diagonal(), counts.sum(1))
    finally:
        torch.use_deterministic_algorithms(False)
    assert max(event.cpu_memory_usage for event in seen.events()) < 8 * 500 * 500 * 3
    right = [int(share.argmax()) == label for share, label in zip(shares, labels, strict=True)]
    assert top1 == pytest.approx(sum(right) / 64)
    for label in range(500):
        own = [is_right for is_right, true in zip(right, labels, strict=True) if true == label]
        assert each[label] == pytest.approx(sum(own) / max(1, len(own)))


@pytest.mark.slow
def test_one_unreadable_picture_costs_no_prediction(
    class_folders: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments(class_folders, weights, tmp_path / "out")) == 0
    new = tmp_path / "new"
    for number in range(5):
        write_picture(new / f"{number}.png", seed=number)
    (new / "._0.png").write_bytes(b"\0\5\x16\7")
    (new / "z.jpg").touch()
    (new / "notes.cr2").touch()
    capsys.readouterr()
    given = ["predict", str(tmp_path / "out"), str(new), "--out", str(tmp_path / "p"), "--device", "cpu"]
    assert main([*given, "--attention"]) == 2
    told = capsys.readouterr()
    assert "1 of 6 pictures left out: cannot read the picture" in told.err
    assert "z.jpg: the file is empty" in told.err
    assert "left out: 1 hidden files or folders of tools, 1 *.cr2" in told.out
    assert [Path(row["path"]).name for row in table(tmp_path / "p/predictions.csv")] == [
        f"{number}.png" for number in range(5)
    ]


def test_outputs_that_are_not_finite_never_predict() -> None:
    from accelerate import Accelerator

    from engine.demo.dataset import drawn_task

    class Broken(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return torch.full((len(pictures), 20), float("nan"))

    card = Card("broken", {}, 32, (0.5,) * 3, (0.5,) * 3, tuple(map(str, range(20))))
    with pytest.raises(InputError, match="values that are not finite"):
        TrainedModel(Broken(), card, Accelerator(cpu=True)).probabilities_of(drawn_task().test)
