"""AttentionKL: keep where the class token looks, as a distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitreg.functional import kl_divergence
from vitreg.penalties.base import ReadingPenalty, check_positive, register_penalty


@register_penalty("attention_kl")
@dataclass(frozen=True, kw_only=True)
class AttentionKL(ReadingPenalty):
    r"""Keep the [CLS] attention over the patches near the pre-trained model's, as a distribution.

    $$\frac{1}{L H} \sum_{l,h} \mathrm{KL}\!\left(\mathrm{softmax}(a_S^{l,h} / \tau) \,\middle\Vert\,
    \mathrm{softmax}(a_T^{l,h} / \tau)\right)$$

    averaged over the batch, with $a^{l,h}$ the class token's attention logits over the patches in block $l$
    of $L$ and head $h$ of $H$; $T$ is the model, $S$ the source. Like the softmax, it ignores a shift of a
    whole row.

    Attributes:
        lam: the weight; where attention is transferred, its authors use 3, on a sum over blocks.
        layers: which blocks, see `ReadingPenalty`; there the lower three quarters.
        query: whose attention, see `GTA`.
        align: "resample" for a source with another patch grid.
        heads: "mean" for a source with another number of heads.
        temperature: $\tau$, above 0; there 1.

    Source: Li et al. 2024 (NeurIPS), "On the Surprising Effectiveness of Attention Transfer for Vision
    Transformers", arXiv 2411.09702 (attention distillation).
    """

    # NOTE[DIFF]: the authors' loss is a cross-entropy, whose floor is the source's entropy; this is zero at
    # the source, with the same gradient.
    # NOTE[DIFF]: a mean over blocks, which the authors sum over: their 3 for 18 blocks is 54 here.
    # NOTE[DIFF]: only the class token's row over the patches: the authors distil the rows of all tokens,
    # over all keys.
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.temperature, name="temperature")

    @property
    def extractor(self) -> str:
        """The extractor that is read: `attn_logits`."""
        return "attn_logits"

    def value(self, target: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
        """Return the mean divergence of the rows, [b, h, p] a block."""
        rows = zip(target, source, strict=True)
        return torch.stack(
            [kl_divergence(t, s.detach(), temperature=self.temperature).mean() for t, s in rows]
        ).mean()
