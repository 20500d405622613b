"""Compute in float32 whatever the caller's autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context in which operations on `tensor`'s device keep the types of their arguments."""
    device_type = tensor.device.type
    if not torch.amp.is_autocast_available(device_type):  # such as meta
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
