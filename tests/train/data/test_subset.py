from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitreg.errors import InputError
from vitreg.train.data.subset import Share, split, stratified_indices


@given(
    sizes=st.lists(st.integers(4, 40), min_size=2, max_size=6),
    rate=st.floats(0.2, 1.0),
    seed=st.integers(0, 1000),
)
def test_share_of_each_class(sizes: list[int], rate: float, seed: int) -> None:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    classes = [str(label) for label in range(len(sizes))]
    chosen = stratified_indices(labels, Share(rate=rate), seed=seed, classes=classes)
    counts = Counter(labels[index] for index in chosen)
    assert len(set(chosen)) == len(chosen)
    assert counts == {label: round(rate * size) for label, size in enumerate(sizes)}


def test_same_seed_same_subset_other_seed_another_and_smaller_within_larger() -> None:
    labels = [0] * 50 + [1] * 50

    def draw(rate: float, seed: int) -> list[int]:
        return stratified_indices(labels, Share(rate=rate), seed=seed, classes=("a", "b"))

    assert draw(0.2, 3) == draw(0.2, 3)
    assert draw(0.2, 3) != draw(0.2, 4)
    assert set(draw(0.2, 3)) < set(draw(0.6, 3))
    # The two classes are shuffled apart: not the same places in both.
    assert [i for i in draw(0.2, 3) if i < 50] != [i - 50 for i in draw(0.2, 3) if i >= 50]


def test_shots() -> None:
    chosen = stratified_indices([0] * 5 + [1] * 9, Share(shots=3), seed=0, classes=("a", "b"))
    assert [sum(i < 5 for i in chosen), sum(i >= 5 for i in chosen)] == [3, 3]


def test_empty_or_too_small_class_is_named() -> None:
    with pytest.raises(InputError, match=r"10 % leaves class rare empty: it has 3 pictures"):
        stratified_indices([0] * 10 + [1] * 3, Share(rate=0.1), seed=0, classes=("common", "rare"))
    with pytest.raises(InputError, match=r"4 per class is more than the 3 training pictures of class rare"):
        stratified_indices([0] * 10 + [1] * 3, Share(shots=4), seed=0, classes=("common", "rare"))


def test_held_out_is_a_share_of_each_class_and_never_all() -> None:
    labels = [0] * 10 + [1] * 2 + [2] * 7
    random.Random(0).shuffle(labels)
    everything = range(len(labels))
    for rate, expected in ((0.2, {0: 2, 1: 1, 2: 1}), (1.0, {0: 9, 1: 1, 2: 6}), (0.01, {0: 1, 1: 1, 2: 1})):
        kept, out = split(everything, labels, rate, seed=0, classes="abc")
        assert Counter(labels[index] for index in out) == expected
        assert sorted([*kept, *out]) == list(everything)
    parts = [split(everything, labels, 0.5, seed=seed, classes="abc")[1] for seed in (0, 1)]
    assert parts[0] != parts[1]
    some = [index for index in everything if labels[index] == 1 or index % 3]
    kept, out = split(some, labels, 0.3, seed=0, classes="abc")
    assert sorted([*kept, *out]) == some
    with pytest.raises(InputError, match="class b has a single picture"):
        split([0, 1, 2], [0, 0, 1], 0.2, seed=0, classes="ab")
