"""Build large models fast: random numbers from one small block instead of each parameter's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_SKIPPED = {Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_}
_LARGE = 4096


class _NoRandomNumbers(TorchFunctionMode):
    """Leaves large parameters as they are where a constructor would fill them with random numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _SKIPPED and isinstance(args[0], nn.Parameter) and args[0].numel() > _LARGE:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def small_init() -> Iterator[None]:
    """Build models inside without their random numbers; `shake` then gives them others."""
    with _NoRandomNumbers():
        yield


def shake(model: nn.Module) -> nn.Module:
    """Give every parameter values that matter: weights of the usual size, and noise on all that is small."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(1 << 20, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_meta:
                continue
            count = parameter.numel()
            noise = block.repeat(-(-count // len(block)))[:count].view(parameter.shape)
            if count > _LARGE and parameter.dim() > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(noise / fan_in**0.5)
            else:
                parameter.add_(noise, alpha=0.05)
    return model
