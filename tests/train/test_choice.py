from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from finetuned import arguments, run
from vitreg.errors import InputError
from vitreg.train.choice import chance, choose, verdict
from vitreg.train.data.folder import read_folder
from vitreg.train.labelled_folder import read_pictures
from vitreg.train.runs.report import Configuration, Report
from vitreg.train.training.hyperparameters import Hyperparameters


@pytest.mark.slow
def test_a_search_chooses_and_then_trains_on_all(
    class_folders: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*arguments(class_folders, weights, tmp_path / "out"), "--search", "--methods", "gta"]
    given += ["--lams", "1", "10", "1"]
    assert run(*given) == 0
    shown = capsys.readouterr().out
    assert "search: 3 of the training pictures" in shown
    assert "3 runs to do" in shown
    assert shown.count("← used") == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    tried = [(entry["method"], entry["lam"]) for entry in report["search"]]
    assert tried == [("fine-tune", None), ("GTA", 1.0), ("GTA", 10.0)]
    best = max(report["search"], key=lambda entry: entry["top1"])
    assert report["configuration"]["method"] == best["method"]
    assert report["configuration"]["lam"] == best["lam"]
    assert report["num_measured"] == 6
    assert len(list((tmp_path / "out").glob("birds_*_validation_*/DONE"))) == 3
    assert len(list((tmp_path / "out").glob("birds_*/DONE"))) == 4
    assert run(*given) == 0
    assert "0 runs to do, 3 finished before" in capsys.readouterr().out


def reported(method: str, lam: float | None, top1: float) -> Report:
    hyper = Hyperparameters(steps=1, batch_size=1, lr=1.0, weight_decay=0.0)
    configuration = Configuration("", "", "", "", 32, "none", method, lam, None, 0, hyper)
    return Report(configuration, {"top1": top1}, [], 0.0, {})


@pytest.mark.parametrize(
    ("plain", "gta", "num_pictures", "used", "said"),
    [
        (80.0, 70.0, 100, "fine-tune", "no guide was better"),
        (80.0, 80.0, 100, "fine-tune", "no guide was better"),
        (80.0, 84.0, 100, "GTA", "within the noise: on 100 pictures"),
        (80.0, 84.0, 2500, "GTA", "4.0 points above plain fine-tuning, more than"),
    ],
)
def test_verdict(plain: float, gta: float, num_pictures: int, used: str, said: str) -> None:
    reports = [reported("GTA", 10.0, gta), reported("GTA", 1.0, gta - 1), reported("fine-tune", None, plain)]
    assert choose(reports).configuration.method == used
    told = verdict(reports, num_pictures)
    assert said in told
    assert told.startswith("use fine-tune" if used == "fine-tune" else "use GTA with λ = 10")


def test_chance_is_two_standard_deviations_of_the_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(2, 4000, 60, generator=generator) < 0.8
    differences = 100 * (right[0].double().mean(1) - right[1].double().mean(1))
    assert chance(80.0, 80.0, 60) == pytest.approx(2 * float(differences.std()), rel=0.05)
    assert chance(100.0, 100.0, 60) == 0.0


def test_layouts_of_the_tables_are_read_as_they_read_them(class_folders: Path, indexed: Path) -> None:
    assert read_pictures(class_folders) == read_folder(class_folders)
    assert read_pictures(indexed) == read_folder(indexed)
    (class_folders / "train").rename(class_folders / "all")
    with pytest.raises(InputError, match=r"neither index\.csv nor train/"):
        read_pictures(class_folders)  # a class named test would be a surprise
