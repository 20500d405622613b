import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from laws import draw
from vitreg.functional import smallest_squared_singular_values

SHAPES = [(2, 2), (2, 7), (4, 16), (16, 4), (8, 8), (24, 96)]


def literal(features: Tensor, k: int) -> Tensor:
    values = torch.linalg.svdvals(features)  # descending
    total = features.new_zeros(())
    for i in range(1, k + 1):
        total = total + values[-i] ** 2
    return total


@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_value(b: int, d: int, data: st.DataObject) -> None:
    k, seed = data.draw(st.integers(1, min(b, d))), data.draw(st.integers(0, 99))
    features = draw(seed, b, d)
    got = smallest_squared_singular_values(features, k=k)
    assert got.dtype == torch.float32
    assert got.item() >= 0
    largest = torch.linalg.svdvals(features)[0].item() ** 2
    assert got.item() == pytest.approx(literal(features.double(), k).item(), rel=1e-6, abs=1e-12 * largest)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [1, 2])
def test_gradient(shape: tuple[int, int], k: int) -> None:
    features = draw(3, *shape).requires_grad_()
    smallest_squared_singular_values(features, k=k).backward()
    exact = features.detach().double().requires_grad_()
    literal(exact, k).backward()
    torch.testing.assert_close(features.grad.double(), exact.grad, rtol=1e-5, atol=1e-7)


def conditioned(condition: float, b: int, d: int) -> Tensor:
    """Return float32 features whose largest singular value, 100, is `condition` times the smallest."""
    u, _, vt = torch.linalg.svd(draw(7, b, d).double(), full_matrices=False)
    values = 100 * torch.logspace(0, -math.log10(condition), min(b, d), dtype=torch.float64)
    return ((u * values) @ vt).float()


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("shape", [(32, 192), (48, 24)])
@pytest.mark.parametrize("condition", [1e0, 1e1, 1e2, 1e3, 1e4, 1e5])
def test_as_exact_as_float64_whatever_the_condition(condition: float, shape: tuple[int, int], k: int) -> None:
    features = conditioned(condition, *shape).requires_grad_()
    value = smallest_squared_singular_values(features, k=k)
    value.backward()
    exact = features.detach().double().requires_grad_()
    expected = literal(exact, k)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    if condition > 1:  # where all singular values are equal, any of their vectors is the smallest one's
        assert (features.grad - exact.grad).norm() <= 1e-6 * exact.grad.norm()


def test_repeated_and_vanishing_singular_values_have_a_finite_gradient() -> None:
    for features in (torch.eye(4), torch.ones(4, 6), torch.zeros(3, 5)):
        features = features.clone().requires_grad_()
        value = smallest_squared_singular_values(features, k=2)
        value.backward()
        assert value.item() >= 0
        assert bool(torch.isfinite(features.grad).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_computed_in_float64_whatever_the_autocast(dtype: torch.dtype) -> None:
    features = draw(0, 4, 8).to(dtype)
    exact = smallest_squared_singular_values(features.double(), k=1)
    assert exact.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(smallest_squared_singular_values(features, k=1), exact)


def test_laws_of_a_spectrum() -> None:
    features = draw(0, 6, 9)
    value = smallest_squared_singular_values(features, k=2)
    torch.testing.assert_close(smallest_squared_singular_values(features.T, k=2), value)
    torch.testing.assert_close(smallest_squared_singular_values(features.flip(0), k=2), value)
    torch.testing.assert_close(smallest_squared_singular_values(3 * features, k=2), 9 * value)
    whole = smallest_squared_singular_values(features, k=6)
    torch.testing.assert_close(whole, features.square().sum())
