"""FeatureGuide: keep any reading near the pre-trained model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from vitreg.errors import ArgumentError
from vitreg.functional import squared_distance
from vitreg.functional.squared_distance import (
    Normalisation,
    check_normalisation,
    check_reduction,
    normalise,
)
from vitreg.penalties.base import ReadingPenalty, register_penalty
from vitreg.types import Reduction


@register_penalty("feature_guide")
@dataclass(frozen=True)
class FeatureGuide(ReadingPenalty):
    r"""Keep what an extractor reads near what it reads in the pre-trained model, by squared distance.

    $$\frac{1}{L N} \sum_{l} \lVert f_T^l - f_S^l \rVert^2$$

    averaged over the batch, with $f^l$ the $N$ numbers that are read of a picture in block $l$ of $L$; $T$ is
    the model, $S$ the source.

    `FeatureGuide("msa_output")` and `FeatureGuide("block_output")` are the two alternatives that the GTA
    paper compares itself with.

    Attributes:
        reads: the extractor's name.
        lam: the weight; the paper searches {0.1, 1, 10, 100}.
        layers: which blocks, see `ReadingPenalty`; the paper guides all.
        query: whose attention, where attention is read.
        align: "resample" for a source with another patch grid.
        heads: "mean" for a source with another number of heads, where attention is read.
        reduction: see `vitreg.functional.squared_distance`.
        normalize: what is done to each token's channels before they are compared: "none"; "length" for
            length 1, so that only directions count; "layer" for mean 0 and variance 1, as of a layer norm.

    Source: Seo et al. 2024 (arXiv 2401.02656), Table 3.
    """

    reads: str = "block_output"
    _: KW_ONLY
    reduction: Reduction = "mean"
    normalize: Normalisation = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_normalisation(self.normalize)
        check_reduction(self.reduction)
        if not isinstance(self.reads, str):
            raise ArgumentError(f"FeatureGuide takes an extractor's name, got {type(self.reads).__name__}.")

    @property
    def extractor(self) -> str:
        """The extractor that was asked for."""
        return self.reads

    @property
    def name(self) -> str:
        """The extractor's name."""
        return self.reads

    def value(self, target: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
        """Return the squared distance of the readings."""
        ours, theirs = ([normalise(t, self.normalize) for t in side] for side in (target, source))
        return squared_distance(ours, theirs, reduction=self.reduction)
