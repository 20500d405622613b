from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest

from engine.results.intervals import (
    AT_ONCE,
    RESAMPLES,
    picture_interval,
    seed_interval,
    worst_interval,
    worst_top1,
)


def test_it_is_the_bootstrap_of_seeds_and_pictures() -> None:
    first = {0: (True, True, False), 1: (True, False, True)}
    second = {0: (False, True, False), 1: (False, False, False), 7: (True, True, True)}
    # Every way to draw two of the seeds and three of the pictures, each as likely as the others.
    means = []
    for seeds in itertools.product((0, 1), repeat=2):
        for pictures in itertools.product(range(3), repeat=3):
            ahead = [first[s][i] - second[s][i] for s in seeds for i in pictures]
            means.append(100 * statistics.fmean(ahead))
    found = picture_interval(first, second, level=0.6)
    assert found is not None
    assert found[:2] == pytest.approx(tuple(np.quantile(means, [0.2, 0.8])))
    assert found.over == "seeds and pictures"


def test_of_many_pictures_it_is_what_the_normal_distribution_says() -> None:
    generator = np.random.default_rng(1)
    first, second = ({0: tuple(generator.random(2000) < rate)} for rate in (0.7, 0.5))
    found = picture_interval(first, second)
    ahead = np.subtract(first[0], second[0], dtype=float)
    half = 1.96 * 100 * ahead.std() / np.sqrt(2000)
    assert found is not None
    assert found[:2] == pytest.approx((100 * ahead.mean() - half, 100 * ahead.mean() + half), abs=0.25)
    assert found.over == "pictures"
    mirrored = picture_interval(second, first)
    assert mirrored is not None
    assert (-mirrored.high, -mirrored.low) == pytest.approx(found[:2], abs=0.25)


def test_equal_methods_differ_by_nothing_and_others_share_a_seed() -> None:
    right = {0: (True, False), 1: (False, False)}
    found = picture_interval(right, right)
    assert found is not None
    assert found[:2] == (0, 0)
    assert picture_interval({0: (True,)}, {1: (True,)}) is None


def test_over_seeds_alone_it_is_student_s() -> None:
    found = seed_interval({0: 80.0, 1: 82.0, 2: 84.0, 3: 1.0}, {0: 79.0, 1: 79.0, 2: 79.0})
    half = 4.302653 * statistics.stdev([1, 3, 5]) / 3**0.5  # the quantile of two degrees of freedom
    assert found is not None
    assert found[:2] == pytest.approx((3 - half, 3 + half))
    assert found.over == "seeds"
    assert seed_interval({0: 80.0, 1: 82.0}, {0: 79.0, 1: 79.0}) is None


def test_the_worst_pair_literally() -> None:
    cells = ["a", "a", "b", "b", "b", "a"]
    objects = [0, 0, 1, 1, 2, 3]
    first = {0: [1, 0, 1, 1, 0, 1], 1: [1, 1, 0, 1, 0, 1]}
    second = {0: [0, 0, 1, 1, 1, 1], 1: [1, 0, 0, 0, 0, 0]}
    assert worst_top1(first[0], cells) == pytest.approx(100 * 2 / 3)
    assert worst_top1(first[1], cells) == pytest.approx(100 / 3)

    def worst(right: list[int], drawn: list[int]) -> float:
        means = []
        for cell in "ab":
            weights = [drawn[o] for c, o in zip(cells, objects, strict=True) if c == cell]
            values = [r for c, r in zip(cells, right, strict=True) if c == cell]
            if sum(weights):
                means.append(sum(w * r for w, r in zip(weights, values, strict=True)) / sum(weights))
        return min(means)

    generator, differences = np.random.default_rng(0), []
    for _ in range(RESAMPLES // AT_ONCE):
        seeds = generator.multinomial(2, [0.5, 0.5], AT_ONCE)
        drawn = generator.multinomial(4, [0.25] * 4, AT_ONCE)
        for number in range(AT_ONCE):
            total = 0.0
            for seed in (0, 1):
                ahead = [worst(side[seed], list(drawn[number])) for side in (first, second)]
                total += seeds[number][seed] * (ahead[0] - ahead[1])
            differences.append(100 * total / 2)
    found = worst_interval(first, second, cells, objects)
    assert found is not None
    assert found[:2] == pytest.approx(np.quantile(differences, [0.025, 0.975]))
    assert found.over == "seeds and objects"
    assert worst_interval(first, {2: [0] * 6}, cells, objects) is None
