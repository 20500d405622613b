"""GTA: Guided Transfer of spatial Attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vitreg.functional import squared_distance
from vitreg.functional.squared_distance import check_reduction
from vitreg.penalties.base import ReadingPenalty, register_penalty
from vitreg.types import Reduction


@register_penalty("gta")
@dataclass(frozen=True, kw_only=True)
class GTA(ReadingPenalty):
    r"""Keep the [CLS] attention logits near those of the pre-trained model.

    $$\frac{1}{L H N} \sum_{l,h} \lVert a_T^{l,h} - a_S^{l,h} \rVert^2$$

    averaged over the batch, with $a^{l,h}$ the class token's attention logits over the $N$ patches, before
    the softmax, in block $l$ of $L$ and head $h$ of $H$; $T$ is the model, $S$ the source.

    Attributes:
        lam: the weight; the paper searches {0.1, 1, 10, 100}.
        layers: which blocks, see `ReadingPenalty`; the paper guides all.
        align: "resample" for a source with another patch grid.
        heads: "mean" for a source with another number of heads.
        query: "cls"; for models without a class token "mean", or "pool" where an attention pooling asks.
        reduction: how Eq. (5) is normalised, see `vitreg.functional.squared_distance`.
        center: subtract each row's mean first. A key bias shifts a whole row: the softmax does not see it,
            the squared distance does.

    Source: Seo et al. 2024 (arXiv 2401.02656), Eq. (5).
    """

    reduction: Reduction = "mean"
    center: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduction(self.reduction)

    @property
    def extractor(self) -> str:
        """The extractor that is read: `attn_logits`."""
        return "attn_logits"

    def value(self, target: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
        """Return the squared distance of the logits, [b, h, p] a block."""
        if self.center:
            target = [t - t.mean(-1, keepdim=True) for t in target]
            source = [s - s.mean(-1, keepdim=True) for s in source]
        return squared_distance(target, source, reduction=self.reduction)
