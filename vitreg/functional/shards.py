"""Parameters that are divided among processes: which, among whom, and this process's part."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vitreg.errors import UnsupportedModelError


class _Sum(torch.autograd.Function):
    """`dist.all_reduce`; as each process computes the sum, and takes the gradient of its own part."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any) -> Tensor:
        total = value.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def sum_over(value: Tensor, groups: Iterable[Any]) -> Tensor:
    """Return the sum of a value over the processes of each group; every one of them has to call it.

    The gradient in each process is that of its own part, as FSDP2 keeps of a parameter that it has sharded.
    """
    for group in groups:
        value = _Sum.apply(value, group)
    return value


def divided_like(whole: Tensor, parameter: Tensor) -> Tensor:
    """Return `whole`, which every process has, divided as the parameter is, without talking to the others."""
    if not hasattr(parameter, "placements") or hasattr(whole, "placements"):
        return whole
    from torch.distributed.tensor import distribute_tensor  # only where there are such

    mesh: Any = parameter.device_mesh  # type: ignore[attr-defined]
    placements: Any = parameter.placements
    # Without a source of the data nobody is asked for them; torch 2.6 lets the first process send them.
    alone: Any = {"src_data_rank": None} if "src_data_rank" in signature(distribute_tensor).parameters else {}
    return distribute_tensor(whole.to(mesh.device_type), mesh, placements, **alone)


def shard_groups(parameter: Tensor) -> tuple[Any, ...]:
    """Return the processes that hold the other shards of a parameter, a group a dimension of its mesh.

    Raises:
        UnsupportedModelError: the parameter is divided otherwise than into shards.
    """
    placements: Any = getattr(parameter, "placements", ())
    for placement in placements:
        if not placement.is_replicate() and type(placement).__name__ != "Shard":
            raise UnsupportedModelError(
                f"Expected parameters that are whole or sharded by fully_shard, found one with {placements}. "
                "Shard the model by fully_shard alone, or use a penalty on readings such as GTA."
            )
    mesh: Any = getattr(parameter, "device_mesh", None)
    return tuple(mesh.get_group(dim) for dim, placement in enumerate(placements) if placement.is_shard())


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor that is sharded, or the tensor, to be written to."""
    part: Tensor = getattr(tensor, "to_local", lambda: tensor)()  # which a DTensor has
    return part


def sharded_by(parameters: Iterable[Tensor]) -> str | None:
    """Return what has sharded some of `parameters`, "FSDP1" or "FSDP2", or None if all are whole."""
    for parameter in parameters:
        if hasattr(parameter, "placements"):
            return "FSDP2"
        if getattr(parameter, "_is_flat_param", False) or getattr(parameter, "_fsdp_flattened", False):
            return "FSDP1"
    return None
