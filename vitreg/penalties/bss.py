"""BSS: Batch Spectral Shrinkage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitreg.errors import ArgumentError
from vitreg.functional import smallest_squared_singular_values
from vitreg.functional.gather import gather_rows
from vitreg.penalties.base import ReadingPenalty, register_penalty
from vitreg.types import Lam


@register_penalty("bss")
@dataclass(frozen=True, kw_only=True)
class BSS(ReadingPenalty):
    r"""Shrink the smallest singular values of the batch's features, which hold what does not transfer.

    $$\sum_{i=1}^{k} \sigma_{-i}^2$$

    with $\sigma_{-i}$ the i-th smallest singular value of the features [b, d], a row for each picture.

    The value belongs to a batch. With several processes (DDP, FSDP) that is the batch of all of them: every
    process takes the penalty in every step, and all have the same value. With gradient accumulation it is
    the batch of one forward pass.

    Attributes:
        lam: the weight $\eta$; the authors use 1e-3.
        k: how many of the smallest singular values; the authors use 1.
        gather: whether features are gathered from all processes of `torch.distributed`; without, each process
            shrinks the spectrum of its own batch, which is another penalty.

    Source: Chen et al. 2019 (NeurIPS), "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral
    Shrinkage for Safe Transfer Learning",
    https://proceedings.neurips.cc/paper/2019/hash/c6bff625bdb0393992c9d4db0c6bbe45-Abstract.html
    """

    needs_source: ClassVar[bool] = False
    is_mean: ClassVar[bool] = False

    lam: Lam = 1e-3
    k: int = 1
    gather: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ArgumentError(f"k must be a whole number of at least 1, got {self.k!r}.")
        if not isinstance(self.gather, bool):
            raise ArgumentError(f"gather must be True or False, got {self.gather!r}.")

    @property
    def extractor(self) -> str:
        """The extractor that is read: `features`."""
        return "features"

    def value(self, target: Sequence[Tensor], source: Sequence[Tensor] = ()) -> Tensor:
        """Return the k smallest singular values' squares, summed; features are [b, d].

        A pure function of the features of all processes, which it gathers first.
        """
        (features,) = target
        if self.gather:
            features = gather_rows(features if features.dtype == torch.float64 else features.float())
        if features.shape[0] < 2:
            raise ArgumentError(
                "BSS needs a batch of at least 2 images (one image has one singular value, its norm); "
                f"found {features.shape[0]}. Use a larger batch, or drop_last=True in the data loader."
            )
        if self.k > min(features.shape):
            raise ArgumentError(
                f"BSS with k={self.k} needs at least as many images and features; "
                f"found {list(features.shape)}."
            )
        return smallest_squared_singular_values(features, k=self.k)
