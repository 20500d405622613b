"""How alike two models see the same pictures, by their features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vitreg.errors import ArgumentError


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Return the centred kernel alignment of two sets of features with linear kernels, from 0 to 1.

    $$\frac{\lVert \bar Y^\top \bar X \rVert_F^2}
    {\lVert \bar X^\top \bar X \rVert_F \, \lVert \bar Y^\top \bar Y \rVert_F}, \quad
    \bar X, \bar Y \text{ less their means over the pictures}$$

    1 where one is the other, rotated, scaled and moved; computed in float64.

    Args:
        x: one row a picture, [n, d].
        y: of the same pictures, [n, e].

    Returns:
        a float64 scalar; not a number where all rows of one are equal.

    Raises:
        ArgumentError: they are not of the same pictures, or of fewer than two.

    Source: Kornblith et al. 2019 (ICML), "Similarity of Neural Network Representations Revisited".
    """
    _check(x, y, at_least=2)
    x, y = (one.double() - one.double().mean(0) for one in (x, y))
    return (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


def shared_neighbours(x: Tensor, y: Tensor, *, k: int = 10) -> Tensor:
    """Return which share of each picture's k nearest others by `x` are among those by `y`, from 0 to 1, [n].

    Near is what has a high cosine. Of two unrelated sets of features it is k / (n - 1) on average.

    Args:
        x: one row a picture, [n, d].
        y: of the same pictures, [n, e].
        k: how many neighbours, below n.

    Raises:
        ArgumentError: they are not of the same pictures, or of no more than k.
    """
    _check(x, y, at_least=k + 1)
    nearest = []
    for one in (x, y):
        cosines = (rows := F.normalize(one.double(), dim=1)) @ rows.T
        nearest.append(cosines.fill_diagonal_(-torch.inf).topk(k).indices)
    return (nearest[0][:, :, None] == nearest[1][:, None, :]).any(2).double().mean(1)


def _check(x: Tensor, y: Tensor, *, at_least: int) -> None:
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y) or len(x) < at_least:
        raise ArgumentError(
            f"Expected features of the same pictures, [n, d] and [n, e] with n of at least {at_least}, found "
            f"{list(x.shape)} and {list(y.shape)}."
        )
