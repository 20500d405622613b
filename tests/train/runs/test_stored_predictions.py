"""Every run stores what its model makes of each test picture."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console

from small_runs import planned, write_pictures
from vitreg.files import write_atomically
from vitreg.train.basics.progress import Progress
from vitreg.train.runs import run as run_module
from vitreg.train.runs.execution import execute
from vitreg.train.runs.plan import Run
from vitreg.train.runs.predictions import PREDICTIONS, predictions
from vitreg.train.runs.run import stored_model
from vitreg.train.runs.workplace import Workplace

NAMES = ("a, b.png", "c.png", "d.png", "e.png")


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    write_pictures(tmp_path / "data")
    return planned(tmp_path / "data", ("fine-tune",))


def executed(runs: list[Run], out: Path) -> None:
    with Progress(Console(quiet=True)) as progress:
        accelerator = Accelerator(cpu=True)
        execute(runs, Workplace(out, accelerator, 0, progress, keeps_models=True))


def rows_of(run: Run, out: Path) -> list[dict[str, str]]:
    path = out / run.configuration.folder / PREDICTIONS
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_picture_has_its_class_prediction_and_probability(runs: list[Run], tmp_path: Path) -> None:
    (run,) = [replace(run, task=replace(run.task, test_names=NAMES)) for run in runs]
    executed([run], tmp_path / "out")
    rows = rows_of(run, tmp_path / "out")
    assert [row["path"] for row in rows] == list(NAMES)
    model = stored_model(run, tmp_path / "out").eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (run.task.mean, run.task.std))
    for row, picture, label in zip(rows, run.task.test, run.task.test_labels, strict=True):
        with torch.no_grad():
            logits = model(((picture / 255 - mean) / std)[None])[0].double().tolist()
        best = max(range(2), key=logits.__getitem__)
        total = sum(torch.tensor(logit).exp().item() for logit in logits)
        expected = torch.tensor(logits[best]).exp().item() / total
        assert (row["true"], row["predicted"]) == (run.task.classes[label], run.task.classes[best])
        assert float(row["probability"]) == pytest.approx(expected, abs=2e-4)


def test_pictures_without_names_have_their_numbers(runs: list[Run], tmp_path: Path) -> None:
    bare = [replace(run, task=replace(run.task, test_names=())) for run in runs]
    executed(bare, tmp_path / "out")
    assert [row["path"] for row in rows_of(bare[0], tmp_path / "out")] == ["0", "1", "2", "3"]


def test_predictions_are_there_before_the_run_is_done(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted(write: Callable[[Path, str | bytes], None]) -> Callable[[Path, str | bytes], None]:
        def writing(path: Path, content: str | bytes) -> None:
            if path.name == PREDICTIONS:
                assert not (path.parent / "DONE").exists()
                seen.append(path)
            write(path, content)

        return writing

    seen: list[Path] = []
    monkeypatch.setattr(run_module, "write_atomically", noted(write_atomically))
    executed(runs, tmp_path / "out")
    assert len(seen) == len(runs)


def test_of_equally_probable_classes_the_first_is_predicted_as_the_accuracy_counts_it() -> None:
    classes = [f"class {number}" for number in range(60)]
    logits = torch.randn(200, 60, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    rows = torch.arange(200)
    second = logits.argsort(1, descending=True)[:, 1]
    logits[rows, second] = logits.amax(1)  # as in bfloat16, where equals are common
    assert (logits.softmax(1).topk(3).indices[:, 0] != logits.argmax(1)).any()
    text = predictions([str(row) for row in range(200)], classes, logits.softmax(1))
    found = [row["predicted"] for row in csv.DictReader(text.splitlines())]
    assert found == [classes[best] for best in logits.argmax(1).tolist()]
