"""`features`: what the task head receives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitreg.errors import UnsupportedModelError
from vitreg.extractors.base import register_extractor
from vitreg.functional.first_tensor import first_tensor
from vitreg.types import Block, Probe, Query, Tap, Tower


@register_extractor("features", per_block=False)
def features(tower: Tower, block: Block, query: Query) -> Probe:
    """Read the pooled features, [b, d]: the head's input, or the tower's output where it has no head.

    In transformers, whose heads are outside of the tower, they are the tower's pooled output. Classifiers of
    DINOv2, CLIP and SigLIP pool the patches themselves and receive something else.
    """

    head = tower.heads[0] if tower.heads else ""

    def of_head(seen: Mapping[str, Any]) -> Tensor:
        args, kwargs = seen["input"]
        return _pool(next(iter((*args, *kwargs.values())), None), f"the input of {head!r}", tower)

    def of_tower(seen: Mapping[str, Any]) -> Tensor:
        return _pool(seen["output"], "the model", tower)

    def of_either(seen: Mapping[str, Any]) -> Tensor:
        return of_head(seen) if "input" in seen else of_tower(seen)

    if isinstance(tower.features, str):
        raise UnsupportedModelError(
            f"features of {type(tower.module).__name__} are not read: {tower.features}"
        )
    if tower.features is not None:
        return tower.features
    if not tower.heads:
        return Probe({"output": Tap(tower.module)}, of_tower)
    module = tower.module.get_submodule(head)
    entering = Tap(module, "input")
    if isinstance(module, nn.Identity) and len(tower.heads) == 1:  # which a model may as well not call
        return Probe({"input": entering, "output": Tap(tower.module)}, of_either, either=True)
    return Probe({"input": entering}, of_head)


def _pool(returned: Any, place: str, tower: Tower) -> Tensor:
    """Return pooled features, [b, d], that were found at `place` of the tower."""
    name = type(tower.module).__name__
    value = first_tensor(
        returned,
        what="features",
        returned_by=f"{place} of {name}" if place != "the model" else name,
        remedy="Say in `TowerParts(features=…)` of `@vitreg.register_tower` how they are read.",
    )
    if value.dim() != 2:
        raise UnsupportedModelError(
            f"features are pooled, [b, d]; the head of {name} receives "
            f"{list(value.shape)}. Give the model a pooling, e.g. timm's global_pool='token'."
        )
    return value
