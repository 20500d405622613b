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
    goes back through the decomposition. Second derivatives are not those of the value. Computed in float32.

    Args:
        features: one row an image, [b, d].
        k: how many singular values, at most min(b, d).

    Returns:
        a float32 scalar.

    Source: Chen et al. 2019 (NeurIPS), "Catastrophic Forgetting Meets Negative Transfer", Eq. (4).
    """
    with without_autocast(features):
        f = features.float()
        tall = f if f.shape[0] > f.shape[1] else f.T
        with torch.no_grad():
            _, vectors = torch.linalg.eigh(tall.T @ tall)  # by ascending eigenvalues
        return (tall @ vectors[:, :k]).square().sum()
