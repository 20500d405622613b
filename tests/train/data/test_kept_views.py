"""Augmented views that are computed once and kept, in memory and beyond what fits."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from small_runs import log_of, with_hyper
from vitreg.train.data.batches import Batches, Slices
from vitreg.train.data.dataset import Task
from vitreg.train.data.kept_views import KeptViews, kept_views
from vitreg.train.runs.plan import Run
from vitreg.train.training.hyperparameters import Hyperparameters
from vitreg.train.training.loop import loader

CPU = torch.device("cpu")
BYTES = 3 * 4 * 4


class Noise:
    """Pictures that are nothing but their index and seed, and a note of each that was computed."""

    def __init__(self) -> None:
        self.computed: Counter[tuple[int, int]] = Counter()

    def picture(self, index: int, *, seed: int) -> Tensor:
        self.computed[index, seed] += 1
        generator = torch.Generator().manual_seed(1000 * index + seed % 1000)
        return torch.randint(256, (3, 4, 4), dtype=torch.uint8, generator=generator)

    def plain(self, index: int) -> Tensor:
        raise AssertionError(index)


def slices(views: int, *, steps: int = 20, batch_size: int = 4) -> Slices:
    return Slices(Batches(range(5), batch_size=batch_size, steps=steps, seed=0, views=views))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("limits", "num_kept"), [((0, 10**6), 15), ((4 * BYTES, 3 * BYTES), 7), ((0, BYTES - 1), 0)]
)
def test_the_pictures_are_those_of_their_draws(limits: tuple[int, int], num_kept: int, workers: int) -> None:
    kept, labels = KeptViews(Noise(), CPU, limits=limits), (0, 1, 0, 1, 1)
    found = list(kept.batches(slices(3), labels, workers=workers, seed=0))
    assert len(found) == 20
    for (pictures, own, views), draws in zip(found, slices(3), strict=True):
        expected = [Noise().picture(draw.picture, seed=draw.seed) for draw in draws]
        assert torch.equal(pictures, torch.stack(expected))
        assert own.tolist() == [labels[draw.picture] for draw in draws]
        assert views.tolist() == [draw.view for draw in draws]
    assert len(kept.pictures) == num_kept
    assert sum(picture.nbytes for picture in kept.pictures.values()) <= sum(limits)


def test_a_view_that_is_kept_is_computed_once() -> None:
    train = Noise()
    kept = KeptViews(train, CPU)
    for _ in range(2):
        list(kept.batches(slices(2, batch_size=12), (0,) * 5, workers=0, seed=0))
    assert len(train.computed) == 10
    assert set(train.computed.values()) == {1}


def test_what_is_kept_does_not_hold_the_batch_that_it_came_in() -> None:
    kept = KeptViews(Noise(), CPU)
    list(kept.batches(slices(2), (0,) * 5, workers=0, seed=0))
    assert all(picture.untyped_storage().nbytes() == BYTES for picture in kept.pictures.values())


def test_runs_share_the_views_of_their_pictures(pair: dict[str, Run]) -> None:
    task = pair["GTA"].task
    kept = kept_views(task, 2, CPU)
    assert kept_views(pair["fine-tune"].task, 2, CPU) is kept
    assert kept_views(task, 3, CPU) is not kept


def test_the_log_is_that_of_views_that_are_augmented_at_each_draw(
    pair: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = with_hyper(pair["GTA"], views=2)
    kept = log_of(run)

    def each_time(task: Task, batches: Batches, hyper: Hyperparameters, **options: Any) -> Any:
        return loader(task, batches, replace(hyper, views=0), **options)

    monkeypatch.setattr("vitreg.train.training.loop.loader", each_time)
    assert log_of(run) == kept
