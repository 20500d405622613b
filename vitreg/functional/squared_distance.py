"""The squared distance between the readings of two models, in the three normalisations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from vitreg.errors import ArgumentError
from vitreg.functional.precision import without_autocast
from vitreg.types import Reduction


def check_reduction(reduction: object) -> None:
    """Raise `ArgumentError` unless `reduction` is a known normalisation."""
    if reduction not in get_args(Reduction):
        raise ArgumentError(f"reduction must be one of {get_args(Reduction)}, got {reduction!r}.")


def squared_distance(
    target: Sequence[Tensor], source: Sequence[Tensor], *, reduction: Reduction = "mean"
) -> Tensor:
    r"""Return the squared distance between two models' readings, one tensor a block.

    With per-block readings $t_l$, $s_l$ of $N$ elements an image each, L blocks and b images:

    - `"mean"`: $\frac{1}{L b N} \sum_l \lVert t_l - s_l \rVert^2$
    - `"sum_layers"`: $\frac{1}{b N} \sum_l \lVert t_l - s_l \rVert^2$
    - `"sum"`: $\frac{1}{b} \sum_l \lVert t_l - s_l \rVert^2$

    Computed in float32. Gradients reach `target` only.

    Args:
        target: the trained model's readings, L tensors with the images first.
        source: the frozen model's, of the same shapes.
        reduction: the normalisation.

    Returns:
        a float32 scalar.

    Source: Seo et al. 2024 (arXiv 2401.02656), Eq. (5); the paper does not state the normalisation.
    """
    # NOTE[DIFF]: the default is a mean, so that lam does not depend on the number of blocks, heads and
    # patches; the two other readings of Eq. (5) are on offer.
    check_reduction(reduction)
    with without_autocast(target[0]):
        means = torch.stack(
            [F.mse_loss(t.float(), s.detach().float()) for t, s in zip(target, source, strict=True)]
        )
        if reduction == "mean":
            return means.mean()
        if reduction == "sum_layers":
            return means.sum()
        return sum(
            (m * (t.numel() / t.shape[0]) for m, t in zip(means, target, strict=True)), means.new_zeros(())
        )
