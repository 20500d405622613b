import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import laws
from laws import draw_blocks
from vitreg import ArgumentError
from vitreg.functional import squared_distance

shape = st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple)
blocks = st.integers(1, 4)
reductions = st.sampled_from(["mean", "sum_layers", "sum"])
seeds = st.integers(0, 99)


def literal(target: list[Tensor], source: list[Tensor], reduction: str) -> float:
    b, num_blocks = target[0].shape[0], len(target)
    total = 0.0
    for t, s in zip(target, source, strict=True):
        for x, y in zip(t.double().flatten().tolist(), s.double().flatten().tolist(), strict=True):
            total += (x - y) ** 2
    num_elements = target[0].numel() / b
    return (
        total / {"mean": num_blocks * b * num_elements, "sum_layers": b * num_elements, "sum": b}[reduction]
    )


@given(shape, blocks, reductions, seeds)
def test_literal(shape: tuple[int, ...], num_blocks: int, reduction: str, seed: int) -> None:
    target, source = draw_blocks(seed, num_blocks, *shape), draw_blocks(seed + 7, num_blocks, *shape)
    got = squared_distance(target, source, reduction=reduction)
    assert got.item() == pytest.approx(literal(target, source, reduction), rel=1e-4)


@given(shape, blocks, reductions, st.floats(0.1, 10), seeds)
def test_laws(shape: tuple[int, ...], num_blocks: int, reduction: str, factor: float, seed: int) -> None:
    def value(target: list[Tensor], source: list[Tensor]) -> Tensor:
        return squared_distance(target, source, reduction=reduction)

    target, source = draw_blocks(seed, num_blocks, *shape), draw_blocks(seed + 7, num_blocks, *shape)
    laws.zero_at_the_source(value, target)
    laws.a_float32_scalar(value, target, source)
    laws.non_negative(value, target, source)
    laws.same_in_any_batch_order(value, target, source)
    laws.quadratic(value, target, source, factor)
    laws.gradient_to_the_target_only(value, target, source)


@given(blocks, st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), seeds)
def test_reductions_differ_by_known_factors(num_blocks: int, b: int, h: int, p: int, seed: int) -> None:
    target, source = draw_blocks(seed, num_blocks, b, h, p), draw_blocks(seed + 7, num_blocks, b, h, p)
    mean = squared_distance(target, source, reduction="mean")
    sum_layers = squared_distance(target, source, reduction="sum_layers")
    total = squared_distance(target, source, reduction="sum")
    torch.testing.assert_close(sum_layers, mean * num_blocks, rtol=1e-4, atol=0)
    torch.testing.assert_close(total, mean * num_blocks * h * p, rtol=1e-4, atol=0)


def test_autocast_does_not_reach_it() -> None:
    target, source = draw_blocks(0, 2, 2, 3, 5), draw_blocks(7, 2, 2, 3, 5)
    exact = squared_distance(target, source)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(squared_distance(target, source), exact)


def test_unknown_reduction() -> None:
    with pytest.raises(ArgumentError, match=r"'mean', 'sum_layers', 'sum'.*'max'"):
        squared_distance([torch.ones(1, 1)], [torch.ones(1, 1)], reduction="max")


def test_other_numbers_of_blocks() -> None:
    with pytest.raises(ValueError, match="zip"):
        squared_distance([torch.ones(1, 1)], [])
