"""A copy of a pre-trained model that shares nothing with it, whatever hangs on its modules."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitreg.errors import UnsupportedModelError, VitregError
from vitreg.sources.functions import copy_functions


def frozen_copy(module: nn.Module) -> tuple[nn.Module, list[Tensor | nn.Module]]:
    """Return a copy of `module` in eval mode, whose parameters have no gradient and need none.

    Beside it, what is copied because functions on its modules refer to it, see `copy_functions`.

    Tensors that an operation has computed, which torch refuses to copy, are copied without their history:
    the weights that `weight_norm` and pruning compute anew in each pass, an output that somebody keeps.

    Raises:
        UnsupportedModelError: something on a module cannot be copied, such as a lock or a process group.
    """
    memo: dict[int, Any] = {}
    try:
        with _WithoutHistory():
            copied = copy.deepcopy(module, memo)
            beside = copy_functions(copied, memo)
    except (VitregError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"Expected a source that can be copied, found that {_culprit(module)} cannot be "
            f"({type(error).__name__}: {_first_line(error)}). Take it off before attaching (it may come back "
            "afterwards), or give its class a __deepcopy__."
        ) from error
    for part in (copied, *beside):
        for parameter in part.parameters() if isinstance(part, nn.Module) else [part]:
            parameter.grad = None
            parameter.requires_grad_(False)
        if isinstance(part, nn.Module):
            part.eval()
    return copied, beside


class _WithoutHistory(TorchFunctionMode):
    """Copies tensors that are no leaves of their graph as constants."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def _culprit(module: nn.Module) -> str:
    """Return in words what of `module` cannot be copied."""
    for name, part in module.named_modules():
        for attribute, value in vars(part).items():
            if attribute == "_modules":
                continue
            try:
                with _WithoutHistory():
                    copy.deepcopy(value)
            except Exception:
                what = "a hook" if attribute.endswith("_hooks") else f"the attribute {attribute!r}"
                return f"{what} of {name or 'the model itself'!r} ({type(part).__name__})"
    return f"{type(module).__name__}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
