"""The smallest singular values of a batch of features."""

from __future__ import annotations

import torch
from torch import Tensor

from vitreg.functional.precision import without_autocast


def smallest_squared_singular_values(features: Tensor, *, k: int) -> Tensor:
    r"""Return the sum of the squares of the k smallest singular values of `features`.

    $$\sum_{i=1}^{k} \sigma_{-i}^2, \quad \sigma_{-i} \text{ the i-th smallest singular value}$$

    Squared singular values are the eigenvalues of the smaller Gram matrix, which gives the same value and
    gradient as an SVD for less work. Computed in float32; rounding below zero is clamped.

    Args:
        features: one row an image, [b, d].
        k: how many singular values, at most min(b, d).

    Returns:
        a float32 scalar.

    Source: Chen et al. 2019 (NeurIPS), "Catastrophic Forgetting Meets Negative Transfer", Eq. (4).
    """
    with without_autocast(features):
        f = features.float()
        gram = f @ f.T if f.shape[0] <= f.shape[1] else f.T @ f
        eigenvalues: Tensor = torch.linalg.eigvalsh(gram)  # ascending
        return eigenvalues[:k].clamp(min=0).sum()
