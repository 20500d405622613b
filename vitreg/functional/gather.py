"""Rows of several processes, gathered into one batch with gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vitreg.errors import ArgumentError


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
