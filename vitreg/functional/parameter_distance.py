"""Half the squared norm of many tensors at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vitreg.functional.shards import divided_like, local, shard_groups, sum_over


def half_squared_norm(tensors: Sequence[Tensor], origins: Sequence[Tensor] | None = None) -> Tensor:
    r"""Return $\frac12 \sum_i \lVert \theta_i - \theta_i^0 \rVert^2$ in float32; `origins` None means zero.

    Args:
        tensors: parameters, of any shapes, whole or sharded by FSDP2.
        origins: where they started, of the same shapes, whole or sharded alike.

    Returns:
        a float32 scalar, of all shards together; gradients reach `tensors` only, once.

    Raises:
        UnsupportedModelError: a tensor is divided otherwise than into shards.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for index, tensor in enumerate(tensors):
        alike.setdefault(shard_groups(tensor), []).append(index)
    values = []
    for groups, indices in alike.items():
        own = [local(tensors[index]) for index in indices]
        starts = [] if origins is None else [local(divided_like(origins[i], tensors[i])) for i in indices]
        norm = _HalfSquaredNorm.apply(len(own), *own, *(start.detach() for start in starts))
        values.append(sum_over(norm, groups))
    return sum(values[1:], values[0])


CHUNK = 2**20
"""How many weights are held at once beside the parameters, unless one alone has more."""


class _HalfSquaredNorm(torch.autograd.Function):
    """The norm with its gradient written out: it is the shift itself, which autograd would compute by way
    of the norms, with all shifts in memory."""

    @staticmethod
    def forward(num_tensors: int, *tensors: Tensor) -> Tensor:
        norms = [
            norm
            for chunk in _chunks(tensors, num_tensors)
            for norm in torch._foreach_norm(_shifts(tensors, num_tensors, chunk))
        ]
        return torch.stack(norms).square().sum() / 2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.num_tensors, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tensors, num_tensors = ctx.saved_tensors, ctx.num_tensors
        own: list[Tensor] = []
        for chunk in _chunks(tensors, num_tensors):
            shifts = _shifts(tensors, num_tensors, chunk)
            if len(tensors) > num_tensors:  # nobody else has these
                torch._foreach_mul_(shifts, gradient)
            else:
                shifts = list(torch._foreach_mul(shifts, gradient))
            own += shifts
        own = [shift.to(tensor.dtype) for shift, tensor in zip(own, tensors, strict=False)]
        return None, *own, *[None] * (len(tensors) - num_tensors)


def _shifts(tensors: Sequence[Tensor], num_tensors: int, chunk: slice) -> list[Tensor]:
    """Return how far those of `chunk` are from their origins, which follow all tensors, or from zero."""
    own = [tensor.float() for tensor in tensors[:num_tensors][chunk]]
    origins = [tensor.float() for tensor in tensors[num_tensors:][chunk]]
    return list(torch._foreach_sub(own, origins)) if origins else own


def _chunks(tensors: Sequence[Tensor], num_tensors: int) -> Iterator[slice]:
    """Yield slices of the tensors with about `CHUNK` weights each."""
    start = total = 0
    for index, tensor in enumerate(tensors[:num_tensors]):
        if total and total + tensor.numel() > CHUNK:
            yield slice(start, index)
            start, total = index, 0
        total += tensor.numel()
    yield slice(start, num_tensors)
