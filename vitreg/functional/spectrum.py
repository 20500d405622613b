"""The smallest singular values of a batch of features."""

from __future__ import annotations

import torch
from torch import Tensor

from vitreg.functional.precision import without_autocast


def smallest_squared_singular_values(features: Tensor, *, k: int) -> Tensor:
    r"""Return the sum of the squares of the k smallest singular values of `features`.

    $$\sum_{i=1}^{k} \sigma_{-i}^2, \quad \sigma_{-i} \text{ the i-th smallest singular value}$$

    Squared singular values are the eigenvalues of the smaller Gram matrix, which takes less work than an SVD.
    With its eigenvectors $v_i$ held fixed, $\sigma_i^2 = \lVert F v_i \rVert^2$ has the same gradient,
    $2 F v_i v_i^\top$, as an eigenvalue's first-order change does not depend on that of its vector: nothing
    goes back through the decomposition. Second derivatives are not those of the value.

    A Gram matrix squares the condition of the features, and $F v_i$ cancels by as much, so all of it is
    computed in float64: in float32 the value is off by 12 % where the largest singular value is $10^3$ times
    the smallest.

    Args:
        features: one row an image, [b, d].
        k: how many singular values, at most min(b, d).

    Returns:
        a float32 scalar on the features' device; NaN, with such a gradient, where a feature is not finite.

    Source: Chen et al. 2019 (NeurIPS), "Catastrophic Forgetting Meets Negative Transfer".
    """
    with without_autocast(features):
        f = _in_float64(features)
        tall = f if f.shape[0] > f.shape[1] else f.T
        with torch.no_grad():
            gram = tall.T @ tall
            is_finite = gram.isfinite().all()  # else eigh raises, where a GradScaler waits for what is not
            gram = torch.where(is_finite, gram, torch.eye(len(gram), device=gram.device, dtype=gram.dtype))
            _, vectors = torch.linalg.eigh(gram)  # by ascending eigenvalues
            unless_infinite = torch.where(is_finite, 1.0, torch.nan)
        value = (tall @ vectors[:, :k]).square().sum() * unless_infinite
        return value.to(device=features.device, dtype=torch.float32)


def _in_float64(features: Tensor) -> Tensor:
    """Return the features in float64, on the CPU where their device has no such numbers (Apple's GPU)."""
    return (features.cpu() if features.device.type == "mps" else features).double()
