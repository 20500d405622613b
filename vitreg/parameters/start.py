"""Which parameters of a model started where, and which are a new head."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from vitreg.errors import MismatchError, UnsupportedModelError
from vitreg.types import Tower


class Weights(NamedTuple):
    """Trained parameters with their values in the source, and the new head's."""

    parameters: list[Tensor]
    start: list[Tensor]
    head: list[Tensor]


def head_parameters(model: nn.Module, tower: Tower) -> list[nn.Parameter]:
    """Return the parameters of the task head: outside the pre-trained model, or its own classifier.

    A Vision Transformer's classifier belongs to the new task even where the source has one of the same
    shape. What stands beside the tower in a pre-trained composite, such as CLIP's text tower, is no head.
    """
    pretrained = {id(p) for p in tower.home.parameters()}
    if tower.home is tower.module:
        heads = [tower.module.get_submodule(name) for name in tower.heads]  # by name: a head may be reset
        pretrained -= {id(p) for head in heads for p in head.parameters()}
    return [p for p in model.parameters() if id(p) not in pretrained]


def pair_weights(
    model: nn.Module, tower: Tower, source: Tower, selects: Callable[[str, Tensor], bool]
) -> Weights:
    """Return the trained parameters that `selects(name, parameter)` accepts, with their start.

    Raises:
        UnsupportedModelError: the parameters are sharded.
        MismatchError: a parameter of the tower is missing in the source or has another shape there.
    """
    head = head_parameters(model, tower)
    is_head = {id(p) for p in head}
    started = dict(source.module.named_parameters())
    weights = Weights([], [], [p for p in head if p.requires_grad and selects("head", p)])
    for name, parameter in tower.module.named_parameters():
        if id(parameter) in is_head or not parameter.requires_grad or not selects(name, parameter):
            continue
        if hasattr(parameter, "placements"):
            raise UnsupportedModelError(
                "A penalty on parameters needs them whole, found sharded ones (FSDP2). Use DDP, or a "
                "penalty on readings such as GTA."
            )
        start = started.get(name)
        if start is None or start.shape != parameter.shape:
            found = "none" if start is None else f"one of shape {list(start.shape)}"
            raise MismatchError(
                f"Expected {name!r} of shape {list(parameter.shape)} in the source, found {found}. "
                "Create source and model by the same call."
            )
        weights.parameters.append(parameter)
        weights.start.append(start)
    return weights
