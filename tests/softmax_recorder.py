"""An independent way to see attention logits: what enters the softmax of the model's own attention.

A `TorchFunctionMode` sees every fused attention call and computes the full [b, h, n, n] logits from its
arguments. It shares no code with the library.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SoftmaxRecorder(TorchFunctionMode):
    """Collects the logits [b, h, n, n] that enter each attention's softmax, in calling order."""

    def __init__(self) -> None:
        super().__init__()
        self.logits: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.logits.append(_of_sdpa(*args, **kwargs))
        elif func is F.multi_head_attention_forward:
            self.logits.append(_of_mha(*args, **kwargs))
        elif func is torch._native_multi_head_attention:
            query, _, _, width, heads, weight, bias = args[:7]
            self.logits.append(_of_projection(query, weight, bias, width, heads))
        elif func in (Tensor.softmax, torch.softmax, F.softmax) and args[0].dim() == 4:
            self.logits.append(args[0].detach())
        return func(*args, **kwargs)


def _of_sdpa(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *_: Any, **kwargs: Any
) -> Tensor:
    scale = kwargs.get("scale") or 1 / math.sqrt(query.shape[-1])
    logits = (query @ key.transpose(-1, -2)) * scale
    return (logits if attn_mask is None else logits + attn_mask).detach()


def _of_mha(
    query: Tensor, key: Tensor, value: Tensor, width: int, heads: int, *rest: Any, **options: Any
) -> Tensor:
    weight, bias = rest[:2]
    if query is key:
        return _of_projection(query.transpose(0, 1), weight, bias, width, heads)  # [n, b, d] comes in
    if options.get("use_separate_proj_weight"):
        weights = options["q_proj_weight"], options["k_proj_weight"]
    else:
        weights = weight[:width], weight[width : 2 * width]
    q, k = (
        F.linear(x.transpose(0, 1), w, b).unflatten(-1, (heads, width // heads)).transpose(1, 2)
        for x, w, b in zip((query, key), weights, bias.chunk(3)[:2], strict=True)
    )
    return ((q @ k.transpose(-1, -2)) / math.sqrt(width // heads)).detach()


def _of_projection(tokens: Tensor, weight: Tensor, bias: Tensor, width: int, heads: int) -> Tensor:
    b, n, _ = tokens.shape
    q, k, _ = F.linear(tokens, weight, bias).view(b, n, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    return ((q @ k.transpose(-1, -2)) / math.sqrt(width // heads)).detach()
