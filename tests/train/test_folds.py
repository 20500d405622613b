"""Folds of the training pictures: each held out once, copies together, none trained on and measured."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from vitreg.train.data.dataset import Task
from vitreg.train.data.subset import Share, subset
from vitreg.train.trials import fold_tasks, num_possible_folds


class Numbers:
    """Pictures that show their number."""

    def picture(self, index: int, *, seed: int) -> torch.Tensor:
        return torch.full((3, 1, 1), index, dtype=torch.uint8)

    def plain(self, index: int) -> torch.Tensor:
        return self.picture(index, seed=0)


def task(labels: tuple[int, ...], digests: tuple[str, ...] = ()) -> Task:
    test = torch.full((2, 3, 1, 1), 200, dtype=torch.uint8)
    known = {"mine": (0,)}
    return Task("t", ("a", "b"), "f", 1, Numbers(), labels, test, (0, 1), train_digests=digests, lists=known)


@pytest.mark.parametrize("num_folds", [2, 3])
def test_each_picture_is_held_out_once_and_trained_on_in_the_other_folds(num_folds: int) -> None:
    labels = (0, 1, 1, 0, 0, 1, 1, 1)
    folds = fold_tasks(task(labels), num_folds)
    held_out = [fold.test[:, 0, 0, 0].tolist() for fold in folds]
    assert sorted(index for out in held_out for index in out) == list(range(8))
    for fold, out in zip(folds, held_out, strict=True):
        (name,) = fold.lists
        assert sorted([*subset(fold, Share(files=name), seed=0), *out]) == list(range(8))
        assert fold.test_labels == tuple(labels[index] for index in out)
        counts = Counter(fold.test_labels)
        assert abs(counts[0] - 3 / num_folds) < 1
        assert abs(counts[1] - 5 / num_folds) < 1


def test_copies_are_in_one_fold() -> None:
    given = task((0, 0, 0, 1, 1, 1), ("x", "y", "x", "p", "q", "p"))
    assert num_possible_folds(given, 5) == 2
    for fold in fold_tasks(given, 2):
        out = set(fold.test[:, 0, 0, 0].tolist())
        assert {0, 2} <= out or not {0, 2} & out
        assert {3, 5} <= out or not {3, 5} & out


def test_how_many_folds_there_can_be() -> None:
    given = task((0, 0, 0, 1, 1, 1))
    assert num_possible_folds(given, 2) == 2
    assert num_possible_folds(given, 9) == 3
    assert num_possible_folds(task((0, 0, 1)), 2) == 0
    assert num_possible_folds(replace(given, train_digests=("x", "x", "x", "p", "q", "r")), 2) == 0
