"""ObjectGuide: keep the attention on the object, where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vitreg.functional import attention_share
from vitreg.penalties.base import GivenPenalty, register_penalty
from vitreg.types import LayerMap, Layers


@register_penalty("object_guide")
@dataclass(frozen=True, kw_only=True)
class ObjectGuide(GivenPenalty):
    r"""Keep the [CLS] attention on the object, in pictures whose object is marked.

    $$\frac{1}{L} \sum_{l} \left(1 - \frac{\sum_p m_p\, a^l_p}{\sum_p a^l_p}\right)$$

    averaged over the pictures with a mask, with $a^l$ the class token's attention over the patches in block
    $l$ of $L$, mean over heads, and $m_p$ how much of patch $p$ the object covers. Masks or boxes are given:
    `penalty(masks=masks)`. A picture with an empty mask does not count, so some masks are enough.

    Attributes:
        lam: the weight.
        layers: which blocks, by default the last, whose attention a picture shows.
        query: whose attention, see `GTA`.

    Source: after Chefer et al. 2022 (NeurIPS), "Optimizing Relevance Maps of Vision Transformers Improves
    Robustness", arXiv 2206.01161.
    """

    # NOTE[DIFF]: the paper guides a relevance map, by separate squared distances for object and background,
    # and raises the model's confidence; this guides the attention itself, in the class token's row.
    needs: ClassVar[Literal["labels", "masks"]] = "masks"
    needs_source: ClassVar[bool] = False
    is_mean: ClassVar[bool] = False  # over those pictures alone that have a mask

    layers: Layers | LayerMap = -1

    @property
    def extractor(self) -> str:
        """The extractor that is read: `attn_probs`."""
        return "attn_probs"

    def value(
        self, target: Sequence[Tensor], source: Sequence[Tensor] = (), given: Sequence[Tensor] = ()
    ) -> Tensor:
        """Return the mean share of attention [b, h, p] a block off the object, [b, p] covered a block."""
        blocks = []
        for attention, covered in zip(target, given, strict=True):
            counts = (covered.sum(-1) > 0).float()
            off = 1 - attention_share(attention.float().mean(1), covered)
            blocks.append((off * counts).sum() / counts.sum().clamp(min=1))
        return torch.stack(blocks).mean()
