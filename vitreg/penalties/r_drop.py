"""RDrop: have two passes say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from vitreg.functional import kl_divergence
from vitreg.penalties.base import PassPenalty, register_penalty
from vitreg.types import Lam


@register_penalty("r_drop")
@dataclass(frozen=True, kw_only=True)
class RDrop(PassPenalty):
    r"""Make passes over the same pictures agree, though they drop different parts or see other views.

    $$\frac12\, \mathrm{KL}(p_1 \Vert p_2) + \frac12\, \mathrm{KL}(p_2 \Vert p_1)$$

    averaged over the batch, and over pairs where there are more than two, with $p_i$ what the model's own
    head says in pass $i$ after the softmax. Run the model twice, with dropout or stochastic depth on or with
    two views, and take the penalty once.

    Attributes:
        lam: the weight $\alpha$, beside the mean of the passes' losses. For their ViT the authors use 0.15 by
            their formula and 9.6 in their code; 1 lies between.
        reads: the extractor whose softmax is compared: "class_logits".

    Source: Liang et al. 2021 (NeurIPS), "R-Drop: Regularized Dropout for Neural Networks", arXiv 2106.14448.
    """

    # NOTE[DIFF]: a mean over pictures. The authors' α is 0.3, beside the sum of both losses. Their code for
    # ViT sums over the 32 pictures of a part of its batch, without the half.
    lam: Lam = 1.0
    reads: str = "class_logits"

    @property
    def extractor(self) -> str:
        """The extractor that was asked for."""
        return self.reads

    def value(self, target: Sequence[Tensor], source: Sequence[Tensor] = ()) -> Tensor:
        """Return the mean divergence of each two passes' logits, [b, classes] a pass."""
        pairs = [(kl_divergence(a, b) + kl_divergence(b, a)).mean() / 2 for a, b in combinations(target, 2)]
        return torch.stack(pairs).mean()
