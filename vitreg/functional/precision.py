"""Compute in float32 whatever the caller's autocast, or compute later under the caller's autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

Autocast = tuple[bool, torch.dtype]
"""Whether autocast is on, and its type."""


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context in which operations on `tensor`'s device keep the types of their arguments."""
    return autocast_as(tensor, (False, torch.bfloat16))


def autocast_now(tensor: Tensor) -> Autocast | None:
    """Return the autocast that is in force for `tensor`'s device, or None where there is no such thing."""
    # Compared by name: is_autocast_available breaks the graph of torch.compile in torch 2.6.
    device_type = tensor.device.type
    if device_type == "meta":
        return None
    return torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)


def autocast_as(tensor: Tensor, autocast: Autocast | None) -> AbstractContextManager[object]:
    """Return a context with the given autocast for `tensor`'s device."""
    if autocast is None or tensor.device.type == "meta":
        return nullcontext()
    return torch.autocast(tensor.device.type, enabled=autocast[0], dtype=autocast[1])
