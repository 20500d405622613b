"""Differences to a start: norms by loops, rows of tensors of every dimension, exact ends of a pull."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from laws import draw
from vitreg.functional import Shifts, shrinkage
from vitreg.functional.shifts import pull

shapes = st.lists(st.lists(st.integers(1, 3), max_size=4).map(tuple), min_size=1, max_size=3)


@given(shapes, st.integers(0, 99))
def test_literal(shapes: list[tuple[int, ...]], seed: int) -> None:
    tensors = [draw(seed + i, *shape).double() for i, shape in enumerate(shapes)]
    starts = [draw(seed + 50 + i, *shape).double() for i, shape in enumerate(shapes)]
    shifts = Shifts(tensors, starts)
    rows = shifts.row_norms()
    for index, (tensor, start) in enumerate(zip(tensors, starts, strict=True)):
        numbers = (tensor - start).flatten().tolist()
        length = len(numbers) // tensor.shape[0] if tensor.dim() > 1 else len(numbers)
        sums = [sum(map(abs, numbers[at : at + length])) for at in range(0, len(numbers), length)]
        assert rows[index].tolist() == pytest.approx(sums)
        assert shifts.largest(rows)[index].item() == pytest.approx(max(sums))
        assert shifts.norms()[index].item() == pytest.approx(math.sqrt(sum(x * x for x in numbers)))
        products = [x * y for x, y in zip(numbers, start.flatten().tolist(), strict=True)]
        assert shifts.inner(starts)[index].item() == pytest.approx(sum(products))


@example(1.2e-153, 0.0)
@given(st.floats(0, 10), st.one_of(st.floats(0, 10), st.just(math.inf)))
def test_shrinkage(norm: float, radius: float) -> None:
    share = shrinkage(torch.tensor(norm, dtype=torch.float64), radius).item()
    if norm <= radius:
        assert share == 0
    else:
        assert share == pytest.approx(1 - radius / norm, abs=1e-12)
    assert radius > 0 or norm == 0 or share == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_pull_is_exact_at_its_ends(dtype: torch.dtype) -> None:
    tensors = [(1e4 * draw(1, 3, 4)).to(dtype), draw(2, 3).to(dtype), draw(3).to(dtype)]
    starts = [draw(5, 3, 4).to(dtype), draw(6, 3).to(dtype), draw(7).to(dtype)]
    before = [tensor.clone() for tensor in tensors]
    pull(tensors, starts, [torch.tensor(0.0), torch.zeros(1), torch.tensor(0.0)])
    assert all(torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))
    pull(tensors, starts, [torch.tensor([0.0, 1.0, 0.5]), torch.ones(1), torch.ones(1)])
    assert torch.equal(tensors[0][0], before[0][0])
    assert torch.equal(tensors[0][1], starts[0][1])
    torch.testing.assert_close(tensors[0][2], (before[0][2] + starts[0][2]) / 2)
    assert torch.equal(tensors[1], starts[1])
    assert torch.equal(tensors[2], starts[2])
