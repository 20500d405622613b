"""Half the squared norm of many tensors at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def half_squared_norm(tensors: Sequence[Tensor], origins: Sequence[Tensor] | None = None) -> Tensor:
    r"""Return $\frac12 \sum_i \lVert \theta_i - \theta_i^0 \rVert^2$ in float32; `origins` None means zero.

    Args:
        tensors: parameters, of any shapes.
        origins: where they started, of the same shapes.

    Returns:
        a float32 scalar; gradients reach `tensors` only.
    """
    shifts = [tensor.float() for tensor in tensors]
    if origins is not None:
        shifts = list(torch._foreach_sub(shifts, [origin.detach().float() for origin in origins]))
    return torch.stack(list(torch._foreach_norm(shifts))).square().sum() / 2
