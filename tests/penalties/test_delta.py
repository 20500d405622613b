import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import laws
from laws import draw, draw_blocks, refuses
from vitreg import DELTA, ArgumentError

size = st.integers(1, 3)
seeds = st.integers(0, 99)


def literal(target: list[Tensor], source: list[Tensor], weights: list[list[float]]) -> float:
    total = 0.0
    for t, s, weight in zip(target, source, weights, strict=True):
        b, n, d = t.shape
        for i in range(b):
            for c in range(d):
                squares = sum((t[i, j, c].item() - s[i, j, c].item()) ** 2 for j in range(n))
                total += d * weight[c] * squares / n / 2 / b
    return total


@given(size, size, size, st.integers(1, 4), st.booleans(), st.floats(0.1, 10), seeds)
def test_literal_and_laws(
    num_blocks: int, b: int, n: int, d: int, weighted: bool, factor: float, seed: int
) -> None:
    target, source = draw_blocks(seed, num_blocks, b, n, d), draw_blocks(seed + 7, num_blocks, b, n, d)
    weights = [draw(seed + 20 + i, d).softmax(0) for i in range(num_blocks)] if weighted else None
    value = DELTA(weights=weights).value
    used = [w.tolist() for w in weights] if weights else [[1 / d] * d] * num_blocks
    assert value(target, source).item() == pytest.approx(literal(target, source, used), rel=1e-3, abs=1e-6)
    laws.zero_at_the_source(value, target)
    laws.a_float32_scalar(value, target, source)
    laws.non_negative(value, target, source)
    laws.same_in_any_batch_order(value, target, source)
    laws.quadratic(value, target, source, factor)
    laws.gradient_to_the_target_only(value, target, source)


def test_the_authors_code() -> None:
    """Its attention-weighted distance, [b, c, h * w] maps, over the batch that the code sums over."""
    target, source, weight = draw(0, 2, 6, 4), draw(7, 2, 6, 4), draw(9, 4).softmax(0)
    fm_tgt, fm_src = target.transpose(1, 2), source.transpose(1, 2)
    b, c, hw = fm_tgt.shape
    distance = torch.norm(fm_tgt - fm_src, 2, 2)
    distance = c * torch.mul(weight, distance**2) / hw
    authors = 0.5 * torch.sum(distance)
    torch.testing.assert_close(DELTA(weights=[weight]).value([target], [source]), authors / b)


def test_wrong_weights() -> None:
    with refuses(ArgumentError, "one tensor [d] a block", "[2, 2]"):
        DELTA(weights=[torch.ones(2, 2)])
    blocks = draw_blocks(0, 2, 1, 2, 3)
    for weights in ([torch.ones(3)], [torch.ones(3), torch.ones(4)]):
        with refuses(ArgumentError, "Expected 2 weights, one [3] for each block"):
            DELTA(weights=weights).value(blocks, blocks)
