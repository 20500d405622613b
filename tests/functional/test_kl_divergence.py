import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from laws import draw
from vitreg.functional import cross_entropy_with, kl_divergence

size = st.integers(1, 5)
seeds = st.integers(0, 99)


def literal_softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def literal(target: Tensor, source: Tensor, temperature: float) -> list[float]:
    values = []
    for t, s in zip(target.double().tolist(), source.double().tolist(), strict=True):
        q, p = (literal_softmax([value / temperature for value in row]) for row in (t, s))
        values.append(sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)))
    return values


@given(size, size, st.floats(0.5, 4), st.floats(0.01, 5), seeds)
def test_literal(b: int, n: int, temperature: float, far: float, seed: int) -> None:
    source = draw(seed, b, n)
    target = source + far * draw(seed + 7, b, n)
    ours = kl_divergence(target, source, temperature=temperature)
    assert ours.tolist() == pytest.approx(literal(target, source, temperature), rel=1e-3, abs=1e-7)
    assert (ours >= 0).all()


@given(size, size, seeds)
def test_gradient_is_that_of_the_cross_entropy(b: int, n: int, seed: int) -> None:
    target, source = draw(seed, b, n).requires_grad_(), draw(seed + 7, b, n)
    (ours,) = torch.autograd.grad(kl_divergence(target, source).sum(), target)
    entropy = -(source.softmax(-1) * target.log_softmax(-1)).sum()
    torch.testing.assert_close(ours, torch.autograd.grad(entropy, target)[0], rtol=1e-4, atol=1e-6)


def test_gradients_of_both_sides_are_those_of_float64() -> None:
    values, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        target, source = (draw(seed, 3, 4).to(dtype).requires_grad_() for seed in (1, 2))
        if dtype == torch.float32:
            value = kl_divergence(target, source).sum()
        else:
            p = source.softmax(-1)
            value = (p * (source.log_softmax(-1) - target.log_softmax(-1))).sum()
        values.append(value.item())
        gradients.append([g.double() for g in torch.autograd.grad(value, (target, source))])
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_zero_where_both_agree_and_finite_far_away() -> None:
    logits = 30 * draw(0, 4, 9)
    assert kl_divergence(logits, logits.clone()).abs().max() == 0
    far = torch.tensor([[500.0, -500.0]]).requires_grad_()
    value = kl_divergence(far, -far.detach())
    assert value.item() == pytest.approx(1000)
    value.backward()
    assert bool(far.grad.isfinite().all())


@given(size, size, seeds)
def test_cross_entropy_literal(b: int, n: int, seed: int) -> None:
    logits, shares = draw(seed, b, n), draw(seed + 7, b, n).softmax(-1)
    expected = [
        -sum(p * math.log(q) for p, q in zip(ps, literal_softmax(zs), strict=True))
        for ps, zs in zip(shares.double().tolist(), logits.double().tolist(), strict=True)
    ]
    assert cross_entropy_with(logits, shares).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)
