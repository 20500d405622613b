"""A plan: runs, steps and hours follow from a few measured steps, here by a clock that the test moves."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console
from torch import nn

from engine.experiment.job import Job, Table
from engine.presets import PAPER
from engine.scripts import console, stopwatch
from engine.scripts.console import table_script
from engine.scripts.forecast import Forecast, forecast
from engine.scripts.stand_ins import stand_in_starts, stand_in_tasks
from engine.scripts.stopwatch import Pace
from small_data import MODEL, SIZE, write_picture
from small_runs import AUGMENT, HYPER, create, planned, quiet, write_pictures
from vitreg.train.data.subset import Share
from vitreg.train.models.start import Start
from vitreg.train.runs.plan import Design
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training.hyperparameters import Hyperparameters

START, FIRST, STEP, PICTURE, GUIDE, TESTED = 2.0, 5.0, 0.01, 0.05, 0.02, 0.5
"""Seconds of the made-up device: before the first step, what this takes longer than others, of a step, of a
picture of it, what the guide adds to a picture, and of a test picture."""

BATCH = 16


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let trainings and evaluations move the clock that this is, and do nothing else."""
    time = [100.0]

    def trained(
        model: nn.Module,
        task: Any,
        indices: Any,
        hyper: Hyperparameters,
        *,
        method: str,
        on_start: Callable[[], None],
        on_step: Callable[[], None],
        readings: Path | None,
        **_: Any,
    ) -> None:
        remembers = readings is not None
        if remembers:
            (readings / "values").write_bytes(bytes(10 * len(task.train_labels)))
            assert len(indices) <= hyper.batch_size
        time[0] += START
        on_start()
        for step in range(hyper.steps):
            guided = method == "GTA" and not remembers and (step == 0 or hyper.every == 1)
            time[0] += FIRST if step == 0 else 0
            time[0] += STEP + hyper.batch_size * (PICTURE / (1 + remembers) + GUIDE * guided)
            on_step()

    def evaluated(model: nn.Module, task: Any, **_: Any) -> None:
        time[0] += TESTED * len(task.test_labels)

    monkeypatch.setattr(stopwatch, "train", trained)
    monkeypatch.setattr(stopwatch, "evaluate", evaluated)
    return time


def job_of(tmp_path: Path, select: str = "none", others: int = 0, **hyper: Any) -> Job:
    write_pictures(tmp_path / "data")  # two classes of four training pictures and two test pictures
    task = planned(tmp_path / "data")[0].task
    design = Design(
        [task, *[replace(task, name="other")] * others],
        [Start(MODEL, "seven", create)],
        methods=("fine-tune", "GTA"),
        lams={"GTA": (1.0, 10.0)},
        shares=[Share(rate=1.0)],
        seeds=[0, 1],
        hyper=replace(HYPER, **{"steps": 100, "batch_size": BATCH, **hyper}),
        augment=AUGMENT,
    )
    place = Workplace(tmp_path / "out", Accelerator(cpu=True), 0, quiet())
    return Job(Table("table3", methods=()), "", design, place, select, 0.25)


def forecast_of(job: Job, now: list[float], seconds: float = 1000.0) -> Forecast:
    found = forecast(job, seconds=seconds, clock=lambda: now[0])
    assert not job.place.out.exists()
    return found


def run_seconds(step: float, tested: int = 4) -> float:
    return START + FIRST + 100 * step + TESTED * tested


PLAIN, GUIDED = STEP + BATCH * PICTURE, STEP + BATCH * (PICTURE + GUIDE)


def test_hours_are_those_of_the_runs_that_are_left(tmp_path: Path, now: list[float]) -> None:
    found = forecast_of(job_of(tmp_path, others=1), now)
    each = run_seconds(PLAIN) + 2 * run_seconds(GUIDED)
    assert [(p.stage, p.data, p.seed, p.runs, p.steps) for p in found.parts] == [
        ("table", data, seed, 3, 300) for data in ("indexed", "other") for seed in (0, 1)
    ]
    assert [part.seconds for part in found.parts] == pytest.approx([each] * 4)
    assert found.pictures == BATCH
    assert found.finished == 0
    model = create(2, 0.0)
    assert found.checkpoint_bytes == 3 * 4 * sum(p.numel() for p in model.parameters())


def test_a_search_comes_first_and_leaves_one_run_of_each_cell(tmp_path: Path, now: list[float]) -> None:
    found = forecast_of(job_of(tmp_path, "validation"), now)
    searched = 2 * run_seconds(GUIDED, tested=2)  # a quarter of each class is held out
    after = run_seconds(PLAIN) + run_seconds(GUIDED)
    assert [part.stage for part in found.parts] == ["search for λ"] * 2 + ["table"] * 2
    assert [part.seconds for part in found.parts] == pytest.approx([searched] * 2 + [after] * 2)


def test_a_large_batch_is_measured_in_part_and_scaled(tmp_path: Path, now: list[float]) -> None:
    found = forecast_of(job_of(tmp_path, batch_size=4096), now, seconds=800.0)
    assert found.pictures == 2048  # two steps of all would not fit into the 400 seconds of a method
    assert found.paces[MODEL, "GTA"].step == pytest.approx(2 * (STEP + 2048 * (PICTURE + GUIDE)))
    assert found.paces[MODEL, "fine-tune"].step == pytest.approx(2 * (STEP + 2048 * PICTURE))
    assert found.unmeasured == []
    assert {method: pace.steps for (_, method), pace in found.paces.items()} == {"GTA": 1, "fine-tune": 4}
    assert found.measured < 1000  # the last step ends later


def test_a_slow_device_takes_twice_the_time_at_most(tmp_path: Path, now: list[float]) -> None:
    job = job_of(tmp_path, batch_size=768)
    methods = ("fine-tune", "attention-only", "ffn-only", "GTA", "layer-decay", "TransMix")
    found = forecast_of(replace(job, design=replace(job.design, methods=methods)), now, seconds=10.0)
    alone = FIRST + STEP + 2 * (PICTURE + GUIDE)  # which is longer than a sixth of the time
    assert found.paces[MODEL, "GTA"] == Pace(pytest.approx(START), *[pytest.approx(384 * alone)] * 2, 0.0, 1)
    plain = 384 * (FIRST + STEP + 2 * PICTURE)
    assert found.paces[MODEL, "fine-tune"].step == pytest.approx(plain)
    assert [method for _, method in found.unmeasured] == [*methods[1:3], *methods[4:]]
    assert {found.paces[kind] for kind in found.unmeasured} == {found.paces[MODEL, "GTA"]}
    assert found.measured == pytest.approx(2 * START + alone + plain / 384 + 2 * TESTED)
    assert found.measured < 20
    ((_, seconds),) = {(part.runs, part.seconds) for part in found.parts}
    runs = [plain] + [384 * alone] * 6  # GTA has two λ
    assert seconds == pytest.approx(sum(START + 100 * step + 4 * TESTED for step in runs))


def test_what_was_not_measured_is_said(
    tmp_path: Path, now: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of(tmp_path, batch_size=768)
    found = forecast_of(job, now, seconds=4.0)
    console.show_forecast(Console(width=400), job, found)
    told = capsys.readouterr().out
    assert "by 1 to 1 steps each, of 2 of 768 pictures" in told
    assert "too many rather than too few" in told
    assert "no time was left to measure fine-tune: taken as slow as the slowest of the others" in told
    assert "fine-tune" not in told[told.index("seconds a step") : told.index("measured in")]


def test_what_is_measured_on_the_way_takes_its_time(tmp_path: Path, now: list[float]) -> None:
    job = job_of(tmp_path)
    design = replace(job.design, seeds=[0], methods=["fine-tune"], measure_every=30)
    (part,) = forecast_of(replace(job, design=design), now).parts
    assert part.seconds == pytest.approx(
        run_seconds(PLAIN, tested=4 * (1 + 4))
    )  # 30, 60, 90, the last, and after


def test_a_penalty_on_every_fourth_step_costs_a_fourth(tmp_path: Path, now: list[float]) -> None:
    found = forecast_of(job_of(tmp_path, every=4), now)
    assert found.paces[MODEL, "GTA"].step == pytest.approx(STEP + BATCH * (PICTURE + GUIDE / 4))
    assert found.paces[MODEL, "fine-tune"].step == pytest.approx(PLAIN)


def test_views_are_new_once_and_take_room(tmp_path: Path, now: list[float]) -> None:
    job = job_of(tmp_path, views=3)
    found = forecast_of(replace(job, design=replace(job.design, seeds=[0])), now)
    kept = STEP + BATCH * PICTURE / 2
    new = 3 * 8 / BATCH  # steps of views that are new, in the first run of a method on a data set
    plain = run_seconds(kept) + new * (PLAIN - kept)
    guided = 2 * run_seconds(kept) + new * (GUIDED - kept)
    assert [part.seconds for part in found.parts] == pytest.approx([plain + guided])
    assert found.reading_bytes == pytest.approx(2 * 3 * 8 * 10)  # of methods, views, pictures


def test_what_is_finished_is_not_done_again(
    tmp_path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.scripts import forecast as module

    is_there = lambda run, out: "report" if run.configuration.seed == 0 else None  # noqa: E731
    monkeypatch.setattr(module, "load_finished", is_there)
    found = forecast_of(job_of(tmp_path), now)
    assert found.finished == 3
    assert {part.seed for part in found.parts} == {1}
    monkeypatch.setattr(module, "load_finished", lambda run, out: "report")
    assert forecast_of(job_of(tmp_path), now).parts == []


def test_data_sets_and_weights_that_are_missing_have_stand_ins() -> None:
    settings = replace(PAPER, model=MODEL, size=SIZE)
    tasks = {task.name: task for task in stand_in_tasks(settings)}
    pet = tasks["Pet"]
    assert (len(pet.classes), len(pet.train_labels), len(pet.test_labels)) == (37, 3680, 3669)
    assert set(pet.train_labels) == set(pet.test_labels) == set(range(37))
    assert pet.train.picture(5, seed=1).shape == pet.test[7].shape == (3, SIZE, SIZE)
    (start,) = stand_in_starts({"": MODEL}, SIZE)
    assert start.create(37, 0.1)(torch.zeros(1, 3, SIZE, SIZE)).shape == (1, 37)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a script measure for a blink."""
    monkeypatch.setattr(console, "forecast", partial(forecast, seconds=0.2))


@pytest.mark.usefixtures("short")
def test_a_plan_stands_in_for_the_sources_own_head_and_for_outlines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = table_script(Table("table3", methods=("Co-tuning", "object-guide")), "")
    given = ["--preset", "paper", "--model", MODEL, "--size", "32", "--batch-size", "2", "--device", "cpu"]
    assert script([*given, "--rates", "1", "--lam", "Co-tuning=1", "object-guide=1", "--plan"]) == 2
    assert "--augment rand-m9-mstd0.5-inc1 does not move masks" in capsys.readouterr().err
    given += ["--augment", "crop", "--rates", "1", "--seeds", "0", "--lam", "Co-tuning=1", "object-guide=1"]
    assert script([*given, "--plan"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "in all 10 runs, 30000 steps" in told
    assert re.search(r"seconds a step: object-guide [\d.e-]+.*; measured in", told)


@pytest.mark.usefixtures("short")
def test_a_script_says_its_plan_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for seed, (split, label, number) in enumerate(itertools.product(("train", "test"), "ab", range(3))):
        write_picture(data / split / label / f"{number}.png", seed=seed)
    given = ["--data", str(data), "--model", MODEL, "--size", "32", "--steps", "6", "--batch-size", "4"]
    given += ["--rates", "0.5", "1"]
    script = table_script(Table("table3", methods=("fine-tune", "GTA")), "")
    assert script([*given, "--seeds", "0", "--device", "cpu", "--out", str(out), "--plan"]) == 0
    told = capsys.readouterr().out
    assert "in all 4 runs, 24 steps" in told  # two shares of each method
    assert "missing, with stand-ins here: the pre-trained weights" in told
    assert re.search(r"by \d+ to \d+ steps each, of [24] of 4 pictures on cpu", told)
    assert not out.exists()
    assert script(["--plan"]) == 2
    assert "--plan only with --data or --preset" in capsys.readouterr().err
