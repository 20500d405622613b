"""How much of what the source saw a model still sees."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitreg.functional import linear_cka, shared_neighbours
from vitreg.measure.attention import check_images
from vitreg.sources.forward import evaluating
from vitreg.sources.frozen import FrozenSource
from vitreg.tracing import trace


class FeatureSimilarity(NamedTuple):
    """How alike the features of a model and its source are on the same pictures, both from 0 to 1.

    Attributes:
        cka: their centred kernel alignment, `vitreg.functional.linear_cka`.
        neighbours: which share of each picture's nearest others is the same.
    """

    cka: float
    neighbours: float


def feature_similarity(
    model: nn.Module, source: nn.Module | FrozenSource, images: Tensor | Iterable[Tensor], *, k: int = 10
) -> FeatureSimilarity:
    """Return how much of the source's features a model kept.

    Features are what enters the head. The heads may differ: they play no part.

    Args:
        model: the model that was trained.
        source: the pre-trained one; also `attachment.source`.
        images: as both receive them, on their device, [b, c, height, width], or batches of them.
        k: how many neighbours of a picture are compared.

    Raises:
        ArgumentError: no batch of images, or too few for k.
        UnsupportedModelError: what enters the head cannot be read.
    """
    batches = [images] if isinstance(images, Tensor) else list(images)
    other = source.tower.module if isinstance(source, FrozenSource) else source
    x, y = (torch.cat([_features(one, batch) for batch in batches]) for one in (model, other))
    return FeatureSimilarity(float(linear_cka(x, y)), float(shared_neighbours(x, y, k=k).mean()))


def _features(model: nn.Module, images: Tensor) -> Tensor:
    check_images(images)
    with evaluating(model), torch.no_grad(), trace(model, "features") as found:
        model(images)
    (features,) = found["features"]
    return features
