from __future__ import annotations

import math

import pytest
import torch

from vitreg.errors import ArgumentError
from vitreg.functional import linear_cka, shared_neighbours


def test_cka_is_kornblith_s_formula_by_kernels() -> None:
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
    centre = torch.eye(9, dtype=torch.float64) - 1 / 9
    k, m = centre @ (x @ x.T) @ centre, centre @ (y @ y.T) @ centre

    def hsic(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(float(a[i, j] * b[j, i]) for i in range(9) for j in range(9))

    expected = hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))
    assert float(linear_cka(x, y)) == pytest.approx(expected)
    assert float(linear_cka(x, y)) == pytest.approx(float(linear_cka(y, x)))


def test_cka_is_blind_for_rotation_scale_and_shift_alone() -> None:
    x = torch.randn(20, 5, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    assert float(linear_cka(x, 3 * x @ rotation + 7)) == pytest.approx(1)
    assert float(linear_cka(x, x * torch.arange(1, 6))) < 0.99


def test_neighbours_are_those_by_hand() -> None:
    x, y = torch.randn(8, 3), torch.randn(8, 5)
    found = shared_neighbours(x, y, k=3)
    for i in range(8):
        sets = []
        for rows in (x, y):
            near = sorted(
                (j for j in range(8) if j != i),
                key=lambda j: -float(torch.cosine_similarity(rows[i], rows[j], dim=0)),
            )
            sets.append(set(near[:3]))
        assert float(found[i]) == pytest.approx(len(sets[0] & sets[1]) / 3)
    assert shared_neighbours(x, 5 * x, k=3).tolist() == [1] * 8


@pytest.mark.parametrize(("x", "y"), [((3, 2), (4, 2)), ((3, 2), (3,)), ((1, 2), (1, 2))])
def test_features_of_other_pictures_are_refused(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match="Expected features of the same pictures"):
        linear_cka(torch.randn(x), torch.randn(y))
    with pytest.raises(ArgumentError, match="n of at least 4"):
        shared_neighbours(torch.randn(3, 2), torch.randn(3, 2), k=3)
