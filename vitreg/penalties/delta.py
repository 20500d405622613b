"""DELTA: keep the feature maps, each channel by its worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vitreg.errors import ArgumentError, in_words
from vitreg.functional.precision import without_autocast
from vitreg.penalties.base import ReadingPenalty, register_penalty
from vitreg.types import Lam, LayerMap, Layers


@register_penalty("delta")
@dataclass(frozen=True, kw_only=True)
class DELTA(ReadingPenalty):
    r"""Keep what blocks return near what they return in the pre-trained model, each channel by its weight.

    $$\frac12 \sum_{l} \sum_{c=1}^{d} d\, w_c^l\, \frac1n \lVert f_{T,c}^l - f_{S,c}^l \rVert^2$$

    averaged over the batch, with $f_c^l$ channel $c$ of $d$ of the $n$ tokens that block $l$ returns and
    $w^l$ weights that sum to 1; $T$ is the model, $S$ the source.

    Attributes:
        lam: the weight; the authors' 0.01, on a sum over a batch of 64.
        layers: which blocks, by default five at even distances, the last one among them.
        align: "resample" for a source with another patch grid.
        weights: $w^l$, one tensor [d] a block that is read, see `vitreg.measure.channel_weights`; all alike
            where it is None.

    Source: Li et al. 2019 (ICLR), "DELTA: Deep Learning Transfer using Feature Map with Attention for
    Convolutional Networks", arXiv 1901.09229.
    """

    # NOTE[DIFF]: a mean over the batch. The authors' code sums over its 64 pictures, so that its 0.01 is the
    # 0.64 here; without weights it sums over positions, too.
    # NOTE[DIFF]: the authors' decay of the new head is left to the optimiser's weight decay.
    lam: Lam = 0.64
    layers: Layers | LayerMap = "spread"
    weights: Sequence[Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for weight in self.weights or ():
            if not isinstance(weight, Tensor) or weight.dim() != 1:
                raise ArgumentError(f"weights are one tensor [d] a block, got {in_words(weight)}.")

    @property
    def extractor(self) -> str:
        """The extractor that is read: `block_output`."""
        return "block_output"

    def value(self, target: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
        """Return half the weighted squared distance of the tokens, [b, n, d] a block."""
        weights: Sequence[Tensor | None] = self.weights or [None] * len(target)
        shapes = [t.shape[-1:] for t in target]
        if self.weights and [weight.shape for weight in self.weights] != shapes:
            raise ArgumentError(
                f"Expected {len(target)} weights, one [{target[0].shape[-1]}] for each block that is read, "
                f"found {[list(weight.shape) for weight in self.weights]}. Make them with the same layers."
            )
        with without_autocast(target[0]):
            return torch.stack(
                [self._of_block(t, s, w) for t, s, w in zip(target, source, weights, strict=True)]
            ).sum()

    def _of_block(self, target: Tensor, source: Tensor, weight: Tensor | None) -> Tensor:
        squares = (target.float() - source.detach().float()).square().flatten(0, -2).mean(0)  # [d]
        if weight is not None:
            squares = squares * weight.to(squares, non_blocking=squares.is_cuda) * len(weight)
        return squares.sum() / 2
