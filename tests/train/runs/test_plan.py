from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from accelerate import Accelerator
from rich.console import Console

import vitreg
from small_data import MODEL, SIZE
from vitreg.errors import InputError
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task, evenly
from vitreg.train.data.folder import read_folder
from vitreg.train.data.photographs import photo_task
from vitreg.train.data.subset import Share, subset
from vitreg.train.models.start import Start
from vitreg.train.runs.execution import execute
from vitreg.train.runs.plan import Design, plan, plan_search
from vitreg.train.runs.run import NUM_DRIFT, measured_task, stored_model, training_indices
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training.hyperparameters import Hyperparameters, Mixing
from vitreg.train.training.methods import SOURCE
from vitreg.train.training.state import Measurement
from vitreg.views import random_numbers

HYPER = Hyperparameters(steps=2, batch_size=4, lr=1e-3, weight_decay=0.05)


def create(num_classes: int, drop_path: float) -> torch.nn.Module:
    return timm.create_model(MODEL, num_classes=num_classes, img_size=SIZE, drop_path_rate=drop_path)


@pytest.fixture
def task(indexed: Path) -> Task:
    return photo_task(read_folder(indexed), name="indexed", size=SIZE, augment="none")


def design(task: Task, **options: Any) -> Design:
    known: dict[str, Any] = {
        "methods": ("fine-tune", "L2-SP", "GTA"),
        "lams": {"L2-SP": (0.1,), "GTA": (1.0, 10.0)},
        "shares": [Share(rate=1.0)],
        "seeds": [0, 1],
        "hyper": HYPER,
        "augment": "none",
    }
    return Design([task], [Start(MODEL, "w", create)], **{**known, **options})


def kinds(runs: list[Any]) -> list[tuple[str, float | None, int]]:
    return [(r.configuration.method, r.configuration.lam, r.configuration.seed) for r in runs]


def test_every_cell_and_the_source_once(task: Task) -> None:
    runs = plan(design(task))
    cells = [("fine-tune", None), ("L2-SP", 0.1), ("GTA", 1.0), ("GTA", 10.0)]
    assert kinds(runs) == [(SOURCE, None, 0), *((*cell, seed) for seed in (0, 1) for cell in cells)]
    assert len({run.configuration.folder for run in runs}) == len(runs)
    chosen = plan(design(task), {("w", "indexed", Share(rate=1.0), "GTA"): 10.0})
    assert [kind for kind in kinds(chosen) if kind[0] == "GTA"] == [("GTA", 10.0, 0), ("GTA", 10.0, 1)]


def test_only_a_penalty_on_the_weights_replaces_weight_decay(task: Task) -> None:
    decays = {
        run.configuration.method: run.configuration.hyper.weight_decay
        for run in plan(design(task))
        if run.configuration.hyper is not None
    }
    assert decays == {"fine-tune": 0.05, "L2-SP": 0.0, "GTA": 0.05}


@pytest.mark.parametrize(("option", "value"), [("every", 2), ("fraction", 0.5), ("balance", 0.1)])
def test_only_a_penalty_is_taken_of_a_part(task: Task, option: str, value: float) -> None:
    methods = ("fine-tune", "GTA") if option == "fraction" else ("fine-tune", "L2-SP", "GTA")
    usual = getattr(HYPER, option)
    runs = [plan(design(task, methods=methods, hyper=replace(HYPER, **{option: k}))) for k in (usual, value)]
    folders = [
        {r.configuration.folder for r in some if r.configuration.method == "fine-tune"} for some in runs
    ]
    assert folders[0] == folders[1]
    found = {
        r.configuration.method: getattr(r.configuration.hyper, option)
        for r in runs[1]
        if r.configuration.hyper
    }
    assert found == {name: usual if name == "fine-tune" else value for name in methods}
    assert not {r.configuration.folder for r in runs[0]} & {
        r.configuration.folder for r in runs[1] if r.configuration.method not in ("fine-tune", SOURCE)
    }


def test_the_work_of_runs_is_counted_to_its_end(task: Task, tmp_path: Path) -> None:
    runs = plan(design(task, methods=("linear-probe", "fine-tune"), seeds=[0]))
    costs = {run.configuration.method: run.cost for run in runs}
    num_train, num_test = len(task.train_labels), len(task.test_labels)
    assert costs["linear-probe"] == num_train + num_test
    assert costs["fine-tune"] == 3 * 2 * 4 + num_test  # two steps with four pictures
    with Progress(Console(file=io.StringIO())) as progress:
        execute(runs, Workplace(tmp_path, Accelerator(cpu=True), 0, progress))
        assert progress.done == progress.total == sum(costs.values())


def test_a_penalty_of_a_part_is_a_mean_over_pictures(task: Task) -> None:
    with pytest.raises(InputError, match=r"L2-SP.*means over pictures"):
        plan(design(task, hyper=replace(HYPER, fraction=0.5)))


def test_a_search_sees_no_test_picture(task: Task) -> None:
    runs = plan_search(design(task), 0.25)
    assert kinds(runs) == [("GTA", lam, seed) for seed in (0, 1) for lam in (1.0, 10.0)]
    for run in runs:
        measured, trained = measured_task(run), training_indices(run)
        out = sorted(set(range(len(task.train_labels))) - set(trained))
        assert len(out) == len(measured.test_labels) == 2  # a quarter of each class
        assert measured.test_labels == tuple(task.train_labels[index] for index in out)
        for picture, index in zip(measured.test, out, strict=True):
            assert torch.equal(picture, task.train.plain(index))


@pytest.mark.parametrize("hold_out", [0.0, 1.0])
def test_a_search_holds_something_out(task: Task, hold_out: float) -> None:
    with pytest.raises(InputError, match="a share between 0 and 1 has to be held out"):
        plan_search(design(task), hold_out)


def test_a_search_of_single_pictures_is_refused(task: Task) -> None:
    with pytest.raises(InputError, match="has a single picture to train on"):
        plan_search(design(task, shares=[Share(shots=1)]), 0.2)
    assert plan_search(design(task, shares=[Share(shots=1)], methods=("fine-tune",)), 0.2) == []


@pytest.mark.parametrize("options", [{"methods": ("GTA+TransMix",)}, {"hyper": "mixed"}])
def test_pictures_in_pairs_need_an_even_batch(task: Task, options: dict[str, Any]) -> None:
    odd = replace(HYPER, batch_size=5, mixing=Mixing(mixup=0.8) if "hyper" in options else Mixing())
    lams = {"GTA+TransMix": (1.0,), "L2-SP": (0.1,), "GTA": (1.0,)}
    with pytest.raises(InputError, match="mixes pictures in pairs: --batch-size 5 has to be even"):
        plan(design(task, **{**options, "hyper": odd, "lams": lams}))


def test_a_list_of_files_is_a_share(task: Task) -> None:
    listed = replace(task, lists={"mine": (5, 0, 3)})
    (run,) = [
        run
        for run in plan(design(listed, shares=[Share(files="mine")], methods=("fine-tune",), seeds=[0]))
        if run.configuration.method != SOURCE
    ]
    assert training_indices(run) == [0, 3, 5]
    assert "mine" in run.configuration.folder
    with pytest.raises(InputError, match="names no picture of class 10 lives; add some"):
        plan(design(replace(task, lists={"mine": (0, 3)}), shares=[Share(files="mine")]))
    with pytest.raises(InputError, match="indexed has no list yours"):
        plan(design(listed, shares=[Share(files="yours")]))


def test_models_are_kept_and_measured_on_the_way(task: Task, tmp_path: Path) -> None:
    hyper = replace(HYPER, steps=5)
    small = design(task, methods=("GTA",), lams={"GTA": (1.0,)}, seeds=[0], hyper=hyper, measure_every=2)
    runs = plan(small)

    def executed(*, keeps_models: bool) -> tuple[str, Any]:
        console = Console(record=True, file=io.StringIO())
        with Progress(console) as progress:
            place = Workplace(tmp_path, Accelerator(cpu=True), 0, progress, keeps_models=keeps_models)
            reports = execute(runs, place)
        return console.export_text(), reports

    _, reports = executed(keeps_models=False)
    again, kept = executed(keeps_models=True)
    assert "1 run to do, 1 finished before" in again  # the source has nothing to keep
    assert [report.metrics for report in kept] == [report.metrics for report in reports]
    assert "0 runs to do" in executed(keeps_models=True)[0]

    model = stored_model(runs[1], tmp_path).eval()
    right = model(task.normalise(task.test)).argmax(1) == torch.tensor(task.test_labels)
    assert 100 * float(right.float().mean()) == pytest.approx(kept[1].metrics["top1"])
    measured = {entry["step"]: entry["top1"] for entry in kept[1].log if "top1" in entry}
    assert list(measured) == [1, 3, 4]
    assert measured[4] == kept[1].metrics["top1"]
    assert kept[1].log[-1]["object_share/0"] == kept[1].metrics["object_share"][0]
    with random_numbers(0):
        source = runs[1].start.create(len(task.classes), 0.0)
    looked = task.normalise(task.test[evenly(len(task.test), at_most=NUM_DRIFT)])
    drift = vitreg.measure.attention_drift(model, source, looked).mean()
    assert kept[1].log[-1]["drift"] == pytest.approx(float(drift))
    assert drift > 0
    per_class = kept[1].metrics["per_class"]
    assert list(per_class) == list(task.classes)
    assert sum(per_class.values()) / len(per_class) == pytest.approx(kept[1].metrics["class_mean"])

    (tmp_path / runs[1].configuration.folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"model\.safetensors is broken"):
        stored_model(runs[1], tmp_path)


def test_measurements_at_ever_longer_distances() -> None:
    log, third = (Measurement(every, lambda model: {}) for every in ("log", 3))
    assert [steps for steps in range(1, 40) if log.is_due(steps)] == [1, 2, 4, 8, 16, 32]
    assert [steps for steps in range(1, 10) if third.is_due(steps)] == [3, 6, 9]


def test_epochs_decide_the_steps_of_each_share(task: Task) -> None:
    shares = [Share(shots=1), Share(rate=1.0)]
    runs = plan(design(task, methods=("linear-probe", "fine-tune"), shares=shares, seeds=[0], epochs=10))
    made = [run.configuration for run in runs if run.configuration.method != SOURCE]
    steps = {(c.method, c.share): c.hyper and c.hyper.steps for c in made}
    sizes = {share: len(subset(task, share, seed=0)) for share in shares}
    for share in shares:
        assert steps["fine-tune", share] == round(10 * sizes[share] / HYPER.batch_size)
        assert steps["linear-probe", share] is None
