import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from laws import draw
from vitreg.functional import half_squared_norm

shapes = st.lists(st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple), min_size=1, max_size=4)
seeds = st.integers(0, 99)


def literal(tensors: list[Tensor], origins: list[Tensor] | None) -> float:
    total = 0.0
    for index, tensor in enumerate(tensors):
        for position, value in enumerate(tensor.flatten().double().tolist()):
            origin = 0.0 if origins is None else origins[index].flatten().double().tolist()[position]
            total += 0.5 * (value - origin) ** 2
    return total


@given(shapes, st.booleans(), seeds)
def test_literal(shapes: list[tuple[int, ...]], from_zero: bool, seed: int) -> None:
    tensors = [draw(seed + i, *shape) for i, shape in enumerate(shapes)]
    origins = None if from_zero else [draw(seed + 50 + i, *shape) for i, shape in enumerate(shapes)]
    got = half_squared_norm(tensors, origins)
    assert got.dtype == torch.float32
    assert got.shape == ()
    assert got.item() == pytest.approx(literal(tensors, origins), rel=1e-5, abs=1e-9)


@given(shapes, st.floats(0.1, 10), seeds)
def test_gradient_is_the_shift(shapes: list[tuple[int, ...]], scale: float, seed: int) -> None:
    tensors = [(draw(seed + i, *s) * scale).requires_grad_() for i, s in enumerate(shapes)]
    origins = [draw(seed + 50 + i, *s).requires_grad_() for i, s in enumerate(shapes)]
    half_squared_norm(tensors, origins).backward()
    for tensor, origin in zip(tensors, origins, strict=True):
        torch.testing.assert_close(tensor.grad, (tensor - origin).detach(), rtol=1e-4, atol=1e-6)
        assert origin.grad is None


def test_zero_with_a_zero_gradient_at_the_origin() -> None:
    tensors = [draw(0, 3, 2).requires_grad_(), draw(1, 4).requires_grad_()]
    value = half_squared_norm(tensors, [t.detach().clone() for t in tensors])
    value.backward()
    assert value.item() == 0
    assert all(t.grad.abs().sum() == 0 for t in tensors)


def test_tensors_stay_as_they_are() -> None:
    tensors, origins = [draw(0, 3, 2)], [draw(1, 3, 2)]
    before = [t.clone() for t in (*tensors, *origins)]
    half_squared_norm(tensors, origins)
    assert all(torch.equal(a, b) for a, b in zip(before, (*tensors, *origins), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_summed_in_float32(dtype: torch.dtype) -> None:
    tensors, origins = [draw(0, 64, 64).to(dtype)], [draw(1, 64, 64).to(dtype)]
    got = half_squared_norm(tensors, origins)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(literal(tensors, origins), rel=1e-5)
