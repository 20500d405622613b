"""Distances between what two models read or say: squared, of normalised tokens, or between distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from vitreg.errors import ArgumentError
from vitreg.functional.precision import without_autocast
from vitreg.types import Reduction

Normalisation = Literal["none", "length", "layer"]
"""How each token is normalised: not at all, to length 1, or to mean 0 and variance 1 over its channels."""


def check_normalisation(normalize: object) -> None:
    """Raise `ArgumentError` unless `normalize` is a known normalisation."""
    if normalize not in get_args(Normalisation):
        raise ArgumentError(f"normalize must be one of {get_args(Normalisation)}, got {normalize!r}.")


def normalise(tokens: Tensor, how: Normalisation) -> Tensor:
    """Return tokens [..., d] normalised over their channels, in float32; "none" returns them as they are."""
    if how == "none":
        return tokens
    with without_autocast(tokens):
        if how == "length":
            return F.normalize(tokens.float(), dim=-1)
        return F.layer_norm(tokens.float(), tokens.shape[-1:])


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
    # patches; the two other readings of Eq. (5) are options.
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


def kl_divergence(target: Tensor, source: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""Return the divergence of each row's softmax from the source's, over the last dimension.

    $$\sum_i s_i\,(\log s_i - \log t_i), \qquad t = \mathrm{softmax}(z_T / \tau),\;
    s = \mathrm{softmax}(z_S / \tau)$$

    It is zero where both agree, unlike the cross-entropy, whose floor is the source's entropy. Computed in
    float32. Gradients reach both, so detach the one that is not trained.

    Args:
        target: logits $z_T$, [..., n].
        source: logits $z_S$, of the same shape.
        temperature: $\tau$; above 1 both are smoother.

    Returns:
        [...], in float32.
    """
    with without_autocast(target):
        t, s = ((z.float() / temperature).log_softmax(-1) for z in (target, source))
        # As rows sum to 1, s (log s - log t) - s + t has the same sum, and no term of it is negative. Where
        # both are near each other, the terms would cancel in float32, and are written so that they do not.
        shift, share = s - t, s.exp()
        near = shift.clamp(min=-1)
        terms = torch.where(shift > -1, share * (near + torch.expm1(-near)), share * (shift - 1) + t.exp())
        return terms.sum(-1)


def cross_entropy_with(logits: Tensor, shares: Tensor) -> Tensor:
    r"""Return $-\sum_i p_i \log \mathrm{softmax}(z)_i$ of rows of logits $z$ and shares $p$.

    Args:
        logits: [b, n].
        shares: rows that sum to 1, [b, n].

    Returns:
        [b], in float32.
    """
    with without_autocast(logits):
        return -(shares.float() * logits.float().log_softmax(-1)).sum(-1)
