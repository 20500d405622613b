from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from vitreg.errors import InputError
from vitreg.files import lock, prepare_out, write_atomically
from vitreg.train.data.subset import Share
from vitreg.train.runs import report as runs
from vitreg.train.runs.report import Configuration, Report, load_report, store_report
from vitreg.train.training.hyperparameters import Hyperparameters, Mixing

HYPER = Hyperparameters(steps=2, batch_size=4, lr=1e-3, weight_decay=0.05)
CONFIGURATION = Configuration(
    data="birds",
    data_fingerprint="abc",
    model="test_vit",
    weights="def",
    size=32,
    augment="crop",
    method="GTA",
    lam=10.0,
    share=Share(rate=0.15),
    seed=3,
    hyper=HYPER,
)


def report(configuration: Configuration = CONFIGURATION) -> Report:
    return Report(
        configuration,
        {"top1": 100 / 3, "object_share": [0.1, 1 / 3]},
        [{"loss": 0.1}],
        1.5,
        {"device": "cpu"},
    )


def as_before(path: Path, stored: object) -> None:
    """Write a report as a version did that knew no checksums."""
    path.write_text(json.dumps(stored))
    path.with_name("DONE").write_text("")


def test_report_survives_the_disk_exactly(tmp_path: Path) -> None:
    assert load_report(tmp_path, CONFIGURATION) is None
    store_report(tmp_path, report())
    assert load_report(tmp_path, CONFIGURATION) == report()
    stored = json.loads((tmp_path / CONFIGURATION.folder / "report.json").read_text())
    assert stored["configuration"]["hyper"]["steps"] == 2


def test_report_of_before_there_were_checkpoints_is_read(tmp_path: Path) -> None:
    store_report(tmp_path, dataclasses.replace(report(), continued=2))
    path = tmp_path / CONFIGURATION.folder / "report.json"
    stored = json.loads(path.read_text())
    assert stored.pop("continued") == 2
    as_before(path, stored)
    assert load_report(tmp_path, CONFIGURATION) == report()


def test_every_field_names_another_folder() -> None:
    others = {
        "data": "cars",
        "data_fingerprint": "x",
        "model": "x",
        "weights": "x",
        "size": 64,
        "augment": "none",
        "method": "msa-output",
        "lam": 1.0,
        "share": Share(shots=1),
        "seed": 4,
        "hyper": dataclasses.replace(HYPER, lr=1e-4),
        "precision": "bf16",
        "fused_attention": False,
        "hold_out": 0.2,
        "measure_every": 5,
        "engine": runs.ENGINE + 1,
        "formula": "another",
    }
    assert set(others) == {field.name for field in dataclasses.fields(Configuration)}
    folders = {dataclasses.replace(CONFIGURATION, **{name: value}).folder for name, value in others.items()}
    assert len(folders | {CONFIGURATION.folder}) == len(others) + 1
    assert CONFIGURATION.folder.startswith("birds_GTA_lam10_rate15_seed3_")


PHOTOGRAPHED = Hyperparameters(steps=200, batch_size=64, lr=1e-4, weight_decay=0.05, smoothing=0.1)
MIXED = Hyperparameters(3, 2, 1e-3, 0.0, mixing=Mixing(0.8, 1.0), views=4, every=2)


@pytest.mark.parametrize(
    ("method", "lam", "hyper", "folder"),
    [
        ("GTA", 10.0, PHOTOGRAPHED, "birds_GTA_lam10_rate15_seed3_2c397ff757"),
        ("fine-tune", None, PHOTOGRAPHED, "birds_fine-tune_rate15_seed3_e932edcb7e"),
        ("L2-SP", 0.1, MIXED, "birds_L2-SP_lam0.1_rate15_seed3_9e9c832a47"),
        ("source", None, None, "birds_source_seed0_1495c753e8"),
    ],
)
def test_runs_of_before_keep_their_folders(
    tmp_path: Path, method: str, lam: float | None, hyper: Hyperparameters | None, folder: str
) -> None:
    share, seed = (Share(rate=0.15), 3) if hyper else (None, 0)
    c = Configuration(
        *("birds", "ab" * 32, "deit_tiny_patch16_224", "cd" * 32, 224, "rand-m9-mstd0.5-inc1"),
        *(method, lam, share, seed, hyper),
    )
    assert c.folder == folder
    store_report(tmp_path, report(c))
    path = tmp_path / folder / "report.json"
    stored = json.loads(path.read_text())
    if hyper is not None:
        stored["configuration"]["hyper"]["augment_on"] = "cpu"
    as_before(path, stored)
    assert load_report(tmp_path, c) == report(c)


def test_a_run_that_was_augmented_on_the_device_is_another(tmp_path: Path) -> None:
    store_report(tmp_path, report())
    path = tmp_path / CONFIGURATION.folder / "report.json"
    stored = json.loads(path.read_text())
    stored["configuration"]["hyper"]["augment_on"] = "device"
    as_before(path, stored)
    with pytest.raises(InputError, match="another configuration"):
        load_report(tmp_path, CONFIGURATION)


def test_a_name_cannot_leave_the_folder() -> None:
    assert "/" not in dataclasses.replace(CONFIGURATION, data="../../etc").folder


def test_report_without_done_is_not_finished(tmp_path: Path) -> None:
    store_report(tmp_path, report())
    (tmp_path / CONFIGURATION.folder / "DONE").unlink()
    assert load_report(tmp_path, CONFIGURATION) is None


def test_done_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    replace = os.replace

    def noted(old: str, new: Path) -> None:
        written.append(Path(new).name)
        replace(old, new)

    monkeypatch.setattr(os, "replace", noted)
    store_report(tmp_path, report())
    assert written == ["report.json", "DONE"]


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.md"
    write_atomically(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.md"]


@pytest.mark.parametrize("damage", ["", "{}", '{"configuration": {}}'])
def test_broken_report_is_named(tmp_path: Path, damage: str) -> None:
    store_report(tmp_path, report())
    (tmp_path / CONFIGURATION.folder / "report.json").write_text(damage)
    with pytest.raises(InputError, match=r"report\.json is broken"):
        load_report(tmp_path, CONFIGURATION)


def _try(folder: Path, answers: multiprocessing.Queue[bool]) -> None:
    with lock(folder, wait=False) as is_held:
        answers.put(is_held)


@pytest.mark.slow
def test_lock_is_held_by_one_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[bool] = context.Queue()

    def ask() -> bool:
        process = context.Process(target=_try, args=(tmp_path / "run", answers))
        process.start()
        process.join()
        return answers.get(timeout=60)

    with lock(tmp_path / "run", wait=True) as is_held:
        assert is_held
        assert not ask()
    assert ask()
    answers.close()


def test_out_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to --out"):
        prepare_out(tmp_path / "file" / "runs")
    prepare_out(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
