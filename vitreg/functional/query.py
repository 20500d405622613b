"""Which query's attention is read: the class token's, or the mean of the patches'."""

from __future__ import annotations

from torch import Tensor


def cls_row(tokens: Tensor, dim: int) -> Tensor:
    """Return token 0 of `tokens` along `dim`, which is removed."""
    return tokens.select(dim, 0)


def mean_row(tokens: Tensor, dim: int, *, num_prefix_tokens: int) -> Tensor:
    r"""Return the mean of the patches of `tokens` along `dim`, which is removed.

    Logits are linear in the query, so the mean query's logits are the mean of the patches' logits:
    $\bar q k^\top = \frac{1}{p} \sum_i q_i k^\top$.
    """
    return tokens.narrow(dim, num_prefix_tokens, tokens.shape[dim] - num_prefix_tokens).mean(dim)
