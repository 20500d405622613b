"""Which parameters of a model started where."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitreg.errors import MismatchError, UnsupportedModelError
from vitreg.functional.shards import sharded_by
from vitreg.names import plain_name
from vitreg.parameters.heads import head_parameters
from vitreg.types import NewHead, Tower

_COARSE = (torch.bfloat16, torch.float16)


class Weights(NamedTuple):
    """Trained parameters with their values in the source, and the new head's."""

    parameters: list[Tensor]
    start: list[Tensor]
    head: list[Tensor]


def pair_weights(
    model: nn.Module,
    tower: Tower,
    source: Tower,
    selects: Callable[[str, Tensor], bool],
    new_head: NewHead | None = None,
) -> Weights:
    """Return the trained parameters that `selects(name, parameter)` accepts, with their start.

    Names are those without what wraps a module, on both sides. See `head_parameters` for `new_head`.

    Raises:
        UnsupportedModelError: the parameters are joined by FSDP1, or FSDP2 has them together in a lower
            precision.
        MismatchError: a parameter of the tower is missing in the source or has another shape there.
    """
    sharded = sharded_by(model.parameters())
    if sharded == "FSDP1":
        raise UnsupportedModelError(
            "A penalty on parameters needs them one by one, found FSDP1, which joins them. Use DDP or FSDP2 "
            "(torch.distributed.fsdp.fully_shard), or a penalty on readings such as GTA."
        )
    head = head_parameters(model, tower, new_head)
    is_head = {id(p) for p in head}
    is_coarse = any(p.dtype in _COARSE for p in tower.module.parameters())
    is_fsdp = is_coarse and any(hasattr(part, "reshard") for part in model.modules())
    started = {plain_name(name): p for name, p in source.module.named_parameters()}
    weights = Weights([], [], [p for p in head if p.requires_grad and selects("head", p)])
    for name, parameter in tower.module.named_parameters():
        name = plain_name(name)
        if id(parameter) in is_head or not parameter.requires_grad or not selects(name, parameter):
            continue
        start = started.get(name)
        if start is None or start.shape != parameter.shape:
            found = "none" if start is None else f"one of shape {list(start.shape)}"
            raise MismatchError(
                f"Expected {name!r} of shape {list(parameter.shape)} in the source, found {found}. "
                "Create source and model by the same call."
            )
        if is_fsdp and parameter.dtype in _COARSE and not hasattr(parameter, "placements"):
            raise UnsupportedModelError(
                f"Expected {name!r} in float32, found FSDP2's copy of it in {parameter.dtype}, which is too "
                "coarse to say how far it has moved. Use fully_shard(..., reshard_after_forward=True)."
            )
        weights.parameters.append(parameter)
        weights.start.append(start)
    return weights
