"""GramAnchor: keep how patches resemble each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitreg.errors import ArgumentError
from vitreg.functional import squared_distance
from vitreg.functional.precision import without_autocast
from vitreg.functional.squared_distance import normalise
from vitreg.penalties.base import ReadingPenalty, register_penalty
from vitreg.types import LayerMap, Layers


@register_penalty("gram_anchor")
@dataclass(frozen=True, kw_only=True)
class GramAnchor(ReadingPenalty):
    r"""Keep how similar the patches of a picture are to each other, as in the pre-trained model.

    $$\frac{1}{L\, r\, p} \sum_{l} \lVert \hat X_T^l \hat X_T^{l\top} - \hat X_S^l \hat X_S^{l\top} \rVert^2$$

    averaged over the batch, with $\hat X^l$ the $p$ patches that block $l$ of $L$ returns, each of length 1,
    and $r$ of them as rows; $T$ is the model, $S$ the source. A rotation of all features is free, so it holds
    less than a feature guide does.

    Attributes:
        lam: the weight; in the authors' pre-training it ends at 2.
        layers: which blocks, by default the last.
        align: "resample" for a source with another patch grid.
        rows: at most so many patches, evenly spaced, are compared with all patches.

    Source: Siméoni et al. 2025, "DINOv3", arXiv 2508.10104.
    """

    # NOTE[DIFF]: the source is the pre-trained model; in pre-training it is an earlier state of the teacher.
    # NOTE[DIFF]: the block's output is compared as it is, without the final layer norm.
    layers: Layers | LayerMap = -1
    rows: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.rows, bool) or not isinstance(self.rows, int) or self.rows < 1:
            raise ArgumentError(f"rows must be a whole number of at least 1, got {self.rows!r}.")

    @property
    def extractor(self) -> str:
        """The extractor that is read: `patch_output`."""
        return "patch_output"

    def value(self, target: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
        """Return the mean squared distance of the patches' cosines, [b, p, d] a block."""
        return squared_distance([self._gram(t) for t in target], [self._gram(s) for s in source])

    def _gram(self, patches: Tensor) -> Tensor:
        """Return the cosines of some patches with all, [b, r, p], in float32."""
        x, p = normalise(patches, "length"), patches.shape[1]
        chosen = torch.arange(min(self.rows, p), device=x.device) * p // min(self.rows, p)
        with without_autocast(x):
            return (x if self.rows >= p else x[:, chosen]) @ x.transpose(1, 2)
