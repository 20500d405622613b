"""Runs with a finite number of views, whose source is read once, and with a penalty of a part of all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import vitreg
from small_runs import log_of, with_hyper
from vitreg.train.data.batches import Batches, Draw
from vitreg.train.runs.plan import Run
from vitreg.train.runs.run import readings_in
from vitreg.train.training import guided_model as applied
from vitreg.train.training.hyperparameters import TRANSMIX


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of the source's passes."""
    sizes: list[int] = []
    read = vitreg.FrozenSource.read

    def counted(self: Any, reader: Any, images: torch.Tensor, *args: Any, **options: Any) -> None:
        sizes.append(len(images))
        read(self, reader, images, *args, **options)

    monkeypatch.setattr(vitreg.FrozenSource, "read", counted)
    return sizes


def draws(**options: Any) -> list[Draw]:
    batches = Batches(range(5), batch_size=4, steps=50, **{"seed": 0, **options})
    return [draw for batch in batches for draw in batch]


def test_a_picture_has_so_many_views_at_every_seed() -> None:
    seeds = [{(draw.picture, draw.view): draw.seed for draw in draws(views=3, seed=seed)} for seed in (0, 1)]
    assert seeds[0] == seeds[1]
    assert sorted(view for _, view in seeds[0]) == list(range(15))
    assert all(view // 3 == picture for picture, view in seeds[0])
    assert len(set(seeds[0].values())) == 15


def test_without_views_every_draw_is_new() -> None:
    every = draws()
    assert len({draw.seed for draw in every}) == len(every)
    assert {draw.view for draw in every} == {-1}
    with_views = draws(views=3)
    assert [draw.picture for draw in with_views] == [draw.picture for draw in every]


@pytest.mark.parametrize("is_stored", [False, True])
def test_the_log_is_that_of_a_source_that_is_read_each_time(
    pair: dict[str, Run],
    passes: list[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    is_stored: bool,
) -> None:
    run = with_hyper(pair["GTA"], views=2)
    readings = readings_in(tmp_path, run) if is_stored else None
    remembered = log_of(run, readings)
    assert sum(passes) <= 2 * len(run.task.train_labels)
    assert is_stored == bool(list(tmp_path.glob("readings/*/*/values.npy")))
    passes.clear()
    monkeypatch.setattr(applied, "can_be_remembered", lambda target: False)
    live = log_of(run)
    assert sum(passes) == 8 * 4
    for ours, theirs in zip(remembered, live, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert remembered[-1]["gta"] > 0


def test_runs_of_other_seeds_and_lams_share_what_was_read(
    pair: dict[str, Run],
    passes: list[int],
    tmp_path: Path,
) -> None:
    run = with_hyper(pair["GTA"], views=1)
    readings = readings_in(tmp_path, run)
    log_of(run, readings)
    assert sum(passes) == len(run.task.train_labels)
    passes.clear()
    log_of(with_hyper(pair["GTA"], seed=5, views=1), readings)
    log_of(replace(run, configuration=replace(run.configuration, lam=1.0)), readings)
    assert passes == [1, 1]  # one picture each, to see that it is the source that was remembered


def test_a_run_that_is_repeated_has_the_same_log(pair: dict[str, Run], tmp_path: Path) -> None:
    run = with_hyper(pair["GTA"], views=2)
    first = log_of(run, readings_in(tmp_path, run))
    assert log_of(run, readings_in(tmp_path, run)) == first


@pytest.mark.parametrize("options", [{"mixing": TRANSMIX}, {}])
def test_mixed_pictures_are_read_each_time(
    pair: dict[str, Run],
    passes: list[int],
    options: dict[str, Any],
) -> None:
    run = with_hyper(pair["GTA"], views=2, **options)
    if not options:
        run = replace(run, configuration=replace(run.configuration, method="GTA+TransMix"))
    log_of(run)
    assert sum(passes) == 8 * 4


def test_a_penalty_on_every_other_step(pair: dict[str, Run], passes: list[int]) -> None:
    log_of(with_hyper(pair["GTA"], every=2))
    assert passes == [4] * 4


def test_a_penalty_of_half_of_the_pictures(pair: dict[str, Run], passes: list[int]) -> None:
    log_of(with_hyper(pair["GTA"], fraction=0.5))
    assert passes == [2] * 8
    passes.clear()
    log_of(with_hyper(pair["GTA"], fraction=0.5, views=2))
    assert 1 <= max(passes) <= 2  # of those that a step asks for, only the views that are new


def test_other_pictures_have_a_place_of_their_own(pair: dict[str, Run], tmp_path: Path) -> None:
    run = pair["GTA"]
    other = replace(run, configuration=replace(run.configuration, augment="crop"))
    assert readings_in(tmp_path, run) != readings_in(tmp_path, other)
