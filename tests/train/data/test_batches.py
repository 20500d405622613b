from __future__ import annotations

import random
from collections import Counter

import numpy as np
import torch

from vitreg.train.data.batches import Batches
from vitreg.views import random_numbers


def test_batch_larger_than_the_subset_repeats_and_drops_nothing() -> None:
    batches = list(Batches([4, 7, 9], batch_size=8, steps=6, seed=0))
    assert [len(batch) for batch in batches] == [8] * 6
    counts = Counter(index for batch in batches for index, *_ in batch)
    assert counts == {4: 16, 7: 16, 9: 16}  # 48 draws are 16 whole passes
    seeds = [seed for batch in batches for _, seed, _ in batch]
    assert len(set(seeds)) == len(seeds)  # a repeated picture is augmented anew


def test_each_pass_takes_every_picture_once() -> None:
    drawn = [index for batch in Batches(range(10), batch_size=4, steps=5, seed=1) for index, *_ in batch]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]


def test_draws_depend_on_the_seed_and_the_step_alone() -> None:
    long = list(Batches(range(10), batch_size=4, steps=9, seed=1))
    assert list(Batches(range(10), batch_size=4, steps=5, seed=1)) == long[:5]
    assert list(Batches(range(10), batch_size=4, steps=9, seed=2)) != long


def test_random_numbers_repeat_and_leave_the_generators_alone() -> None:
    def numbers() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = numbers()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    with random_numbers(11):
        first = numbers()
    assert numbers() == expected
    with random_numbers(11):
        assert numbers() == first
    with random_numbers(12):
        assert all(a != b for a, b in zip(numbers(), first, strict=True))
