"""Attention rollout: attention through all blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vitreg.functional.precision import without_autocast


def attention_rollout(start: Tensor, attention: Sequence[Tensor]) -> Tensor:
    r"""Return how much of each token reaches a query of the last block, if attention were all that mixes.

    $$r_L = e, \qquad r_{l-1} = \tfrac12\, (r_l + r_l A_l)$$

    The residual connection carries one half, the mean over heads $A_l$ of the attention the other.

    Args:
        start: $e$, the query as a row over the tokens that sums to 1, e.g. 1 at the class token, [n].
        attention: $A_l$ for each block in order, rows that sum to 1, [b, n, n].

    Returns:
        $r_0$, [b, n], in float32; it sums to 1.

    Source: Abnar and Zuidema 2020 (ACL), "Quantifying Attention Flow in Transformers", Eq. (1), with the mean
    over heads.
    """
    with without_autocast(start):
        row = start.float().expand(attention[0].shape[0], -1)
        for matrix in reversed(attention):
            row = (row + (row[:, None] @ matrix.float()).squeeze(1)) / 2
        return row
