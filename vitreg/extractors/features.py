"""`features`: what the task head receives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitreg.errors import UnsupportedModelError
from vitreg.extractors.base import register_extractor
from vitreg.types import Block, Probe, Query, Tap, Tower


@register_extractor("features", per_block=False)
def features(tower: Tower, block: Block, query: Query) -> Probe:
    """Read the pooled features, [b, d]: the head's input, or the tower's output where it has no head.

    In transformers, whose heads are outside of the tower, they are the tower's pooled output. Classifiers of
    DINOv2, CLIP and SigLIP pool the patches themselves and receive something else.
    """

    def of_head(seen: Mapping[str, Any]) -> Tensor:
        args, _ = seen["input"]
        return _pooled(args[0], tower)

    def of_tower(seen: Mapping[str, Any]) -> Tensor:
        output = seen["output"]
        return _pooled(output[0] if isinstance(output, tuple) else output, tower)

    if isinstance(tower.features, str):
        raise UnsupportedModelError(
            f"features of {type(tower.module).__name__} are not read: {tower.features}"
        )
    if tower.features is not None:
        return tower.features
    if not tower.heads:
        return Probe({"output": Tap(tower.module)}, of_tower)
    return Probe({"input": Tap(tower.module.get_submodule(tower.heads[0]), "input")}, of_head)


def _pooled(value: Tensor, tower: Tower) -> Tensor:
    if value.dim() != 2:
        raise UnsupportedModelError(
            f"features are pooled, [b, d]; the head of {type(tower.module).__name__} receives "
            f"{list(value.shape)}. Give the model a pooling, e.g. timm's global_pool='token'."
        )
    return value
