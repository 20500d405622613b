"""What is in several processes: rows, gathered into one batch with gradients, and shards of parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vitreg.errors import ArgumentError, UnsupportedModelError


class _Gather(torch.autograd.Function):
    """`dist.all_gather` along dimension 0; the gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.num_rows = rows.shape[0]
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.narrow(0, dist.get_rank() * ctx.num_rows, ctx.num_rows)


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of every process one below the other, [processes * b, d]; `rows` [b, d] if it is alone.

    A function of the whole batch, computed by each process, has in each the gradient that the averaging of
    `DistributedDataParallel` or FSDP turns into the gradient that one process would have for that batch.
    Every process has to call it.

    Raises:
        ArgumentError: the processes have different numbers of rows or columns; every process raises it.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    shape = torch.tensor(rows.shape, device=rows.device)
    shapes = [torch.empty_like(shape) for _ in range(dist.get_world_size())]
    dist.all_gather(shapes, shape)
    found = [tuple(other.tolist()) for other in shapes]
    if len(set(found)) > 1:
        raise ArgumentError(
            f"Expected the same shape of features in every process, found {', '.join(map(str, found))}. Use "
            "drop_last=True in the data loader, or gather=False for a penalty of each process's own batch."
        )
    gathered: Tensor = _Gather.apply(rows)
    return gathered


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
    return distribute_tensor(whole.to(mesh.device_type), mesh, placements, src_data_rank=None)


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
