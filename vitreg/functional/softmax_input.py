"""What enters the softmax of an attention that is run, fused or not."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SoftmaxInput(TorchFunctionMode):
    """While it is active, collects the logits of each attention, [..., n, n], in calling order.

    It computes the whole matrix and is meant for a check on a few tokens. It sees
    `scaled_dot_product_attention` and every `softmax` over the last of at least three dimensions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.logits: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.logits.append(_of_sdpa(*args, **kwargs))
        elif func in (Tensor.softmax, torch.softmax, F.softmax):
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            if args[0].dim() >= 3 and dim in (-1, args[0].dim() - 1):
                self.logits.append(args[0])
        return func(*args, **kwargs)


def _of_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    logits = (query @ key.transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        above = torch.ones_like(logits[..., :, :], dtype=torch.bool).triu(1)
        logits = logits.masked_fill(above, -torch.inf)
    if attn_mask is None:
        return logits
    return logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
