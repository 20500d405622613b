"""Keep what a backward pass needs apart from a checkpoint that surrounds it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from vitreg.errors import StateError


def kept_by_itself() -> AbstractContextManager[object]:
    """Return a context whose operations keep what their gradients need, also within a checkpointed block.

    A checkpointed block drops the tensors that it would keep, and runs again in the backward pass to have
    them. It has to keep the same ones then, so what reads along within it would have to read along again,
    whatever passes were read or not read meanwhile, and even if nothing reads any more. What a reading
    keeps is small, so it is kept.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return nullcontext()
    autograd: Any = torch._C._autograd
    top = getattr(autograd, "_top_saved_tensors_default_hooks", None)  # torch 2.6 does not say what surrounds
    if top is None and not autograd._saved_tensors_hooks_is_enabled():
        return nullcontext()  # torch.func's transforms allow no hooks
    if top is not None and top(True) is None:  # no checkpoint surrounds it
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(_keep, _as_it_was)


def _keep(tensor: Tensor) -> tuple[Tensor, int]:
    return tensor, tensor._version


def _as_it_was(kept: tuple[Tensor, int]) -> Tensor:
    tensor, version = kept
    if tensor._version != version:  # autograd looks at it only where nobody keeps its tensors
        raise StateError(
            f"Expected a tensor {list(tensor.shape)} that was read to stay what it was until the backward "
            "pass, found that it was changed in place. Read block_output, or change a copy of it."
        )
    return tensor
