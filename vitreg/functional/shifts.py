"""How far weights have moved from their start, tensor by tensor and row by row, whole or in shards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TINY = torch.finfo(torch.float32).tiny


class Shifts:
    """The differences $\\theta - \\theta_0$ of several tensors, in float32, or in float64 where they are.

    A row is what belongs to one output: an index of the first dimension. A tensor of one dimension, or of
    none, is one row.

    Args:
        tensors: θ, on one device; with `group` this process's shards along the first dimension.
        starts: θ₀, of the same shapes.
        group: the processes that hold the other shards. All of them call the same methods in the same order.
    """

    def __init__(self, tensors: Sequence[Tensor], starts: Sequence[Tensor], group: Any = None) -> None:
        self._given = tensors, starts
        self._group = group

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The differences themselves; with shards, this process's."""
        one, other = ([precise(tensor) for tensor in given] for given in self._given)
        return list(torch._foreach_sub(one, other))

    def norms(self) -> Tensor:
        """Return the Euclidean norm of each difference, [k]."""
        if self.tensors[
            0
        ].is_cpu:  # with a difference before it, vector_norm takes twice as long as a product
            return self.inner(self.tensors).sqrt()
        norms = torch.stack(torch._foreach_norm(self.tensors))
        return norms if self._group is None else self._sum(norms.square()).sqrt()

    def inner(self, others: Sequence[Tensor]) -> Tensor:
        """Return the inner product of each difference with its partner in `others`, [k]."""
        return self.inner_of(self.tensors, others)

    def inner_of(self, tensors: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        """Return the inner products of tensors that are sharded in the same way, [k]."""
        pairs = zip(tensors, others, strict=True)
        products = [torch.dot(one.flatten(), other.flatten().to(one.dtype)) for one, other in pairs]
        return self._sum(torch.stack(products))

    def row_norms(self, places: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return the sum of the absolute values in each row, [rows] for each tensor.

        With `places`, tensors of the same shapes that are overwritten, a CPU is faster.
        """
        if places is None:
            norms = [torch.linalg.vector_norm(t.flatten(1), 1, dim=1) for t in map(_with_rows, self.tensors)]
        else:
            absolute = [torch.abs(t, out=place) for t, place in zip(self.tensors, places, strict=True)]
            norms = [t.flatten(1).sum(1) for t in map(_with_rows, absolute)]
        divided = [index for index, t in enumerate(self.tensors) if t.dim() < 2]
        if self._group is not None and divided:  # one row in several processes
            whole = self._sum(torch.cat([norms[index] for index in divided]))
            for index, norm in zip(divided, whole, strict=True):
                norms[index] = norm.view(1)
        return norms

    def largest(self, rows: Sequence[Tensor]) -> Tensor:
        """Return the largest of each tensor's row norms, [k]."""
        largest = torch.stack([row.amax() if len(row) else row.new_zeros(()) for row in rows])
        if self._group is not None:
            dist.all_reduce(largest, dist.ReduceOp.MAX, self._group)
        return largest

    def _sum(self, values: Tensor) -> Tensor:
        if self._group is not None:
            dist.all_reduce(values, group=self._group)
        return values


def _with_rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.dim() > 1 else tensor.reshape(1, -1)


def shrinkage(norm: Tensor, radius: Tensor | float) -> Tensor:
    r"""Return the share $1 - \min(1, \gamma / n)$ by which a difference of norm n is shortened to radius γ.

    It is exactly 0 inside of the radius, exactly 1 at a radius of 0, and 0 for a difference of zero.
    """
    return torch.where(norm > 0, (norm - radius).clamp(min=0) / norm, 0.0)


def pull(tensors: Sequence[Tensor], starts: Sequence[Tensor], shares: Sequence[Tensor]) -> None:
    """Move tensors toward their starts in place, each by a share [] or [rows] of the way.

    A share of 0 leaves the tensor as it is and 1 makes it the start, bit for bit.
    """
    for tensor, start, share in zip(tensors, starts, shares, strict=True):
        if tensor.device.type == "cpu" and not share.any():  # elsewhere to ask costs more than it saves
            continue
        exact = precise(tensor)
        exact.lerp_(precise(start), per_row(share, exact))
        if exact is not tensor:
            tensor.copy_(exact)


def per_row(values: Tensor, tensor: Tensor) -> Tensor:
    """Return values [] or [rows] in the type of `tensor` and a shape that multiplies it row by row."""
    shape = [-1, *[1] * (tensor.dim() - 1)] if values.dim() and tensor.dim() else []
    return values.reshape(shape).to(tensor.dtype)


def precise(tensor: Tensor) -> Tensor:
    """Return a tensor in float32, or as it is in float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
