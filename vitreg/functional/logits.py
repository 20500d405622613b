"""Attention logits of one query, without the n×n matrix."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from vitreg.functional.precision import without_autocast


def query_key_logits(query: Tensor, key: Tensor, *, scale: float) -> Tensor:
    r"""Return one query's attention logits over all keys, [b, h, n], in float32.

    $$a_{bhn} = s \sum_d q_{bhd}\, k_{bhnd}$$

    Args:
        query: one query a head, [b, h, d].
        key: the keys, [b, h, n, d].
        scale: the factor s, usually $d^{-1/2}$.

    Source: Seo et al. 2024 (arXiv 2401.02656), Eq. (2), row of the [CLS] token.
    """
    if key.dtype != torch.float32 and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        logits: Tensor = _OfRoundedKeys.apply(query, key, scale)
        return logits
    return _query_key_logits(query, key, scale)


def _query_key_logits(query: Tensor, key: Tensor, scale: float) -> Tensor:
    num_heads = key.shape[1]
    with without_autocast(query):
        # One product an image with the heads' queries on a block diagonal: keys lie side by side as they
        # leave their projection, so nothing is copied, as a product a head would (a training step of
        # ViT-S/16 on a CPU: 1.30 instead of 1.34 times the plain one).
        diagonal = torch.eye(num_heads, device=query.device, dtype=torch.float32).unsqueeze(1)
        spread = rearrange((query.float() * scale).unsqueeze(-1) * diagonal, "b h d head -> b (h d) head")
        keys = rearrange(key, "b h n d -> b n (h d)")
        return rearrange(torch.bmm(keys.float(), spread), "b n h -> b h n")


class _OfRoundedKeys(torch.autograd.Function):
    """The logits of keys in half precision, which are kept as they are until the backward pass.

    Autograd would keep them in float32 beside those of the attention: 8 % of what a ViT-S/16 keeps.
    """

    @staticmethod
    def forward(query: Tensor, key: Tensor, scale: float) -> Tensor:
        return _query_key_logits(query, key, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        query, key, ctx.scale = inputs
        ctx.save_for_backward(query, key)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        query, key = ctx.saved_tensors
        with without_autocast(query):
            scaled = gradient * ctx.scale  # [b, h, n]
            of_query = torch.matmul(scaled.unsqueeze(2), key.float()).squeeze(2)
            of_key = (scaled.unsqueeze(-1) * query.float().unsqueeze(2)).to(key.dtype)
        return of_query.to(query.dtype), of_key, None


def absorbed_key_logits(
    query: Tensor, tokens: Tensor, key_weight: Tensor, key_bias: Tensor | None, *, scale: float
) -> Tensor:
    r"""Return one query's attention logits from the tokens that enter the key projection, in float32.

    The key weight is absorbed into the query, so that no key is computed:

    $$a_{bhn} = s\,(x_{bn} \cdot W_{k,h}^\top q_{bh} + q_{bh} \cdot b_{k,h})$$

    Args:
        query: one query a head, [b, h, d_head].
        tokens: what enters the key projection, [b, n, d].
        key_weight: the key projection's weight, [h * d_head, d].
        key_bias: the key projection's bias, [h * d_head], or None.
        scale: the factor s, usually $d_\mathrm{head}^{-1/2}$.

    Returns:
        [b, h, n].
    """
    num_heads, head_dim = query.shape[1], query.shape[2]
    with without_autocast(query):
        scaled = query.float() * scale
        weight = key_weight.float().view(num_heads, head_dim, -1)
        absorbed = torch.einsum("bhe,hed->bhd", scaled, weight)
        logits = torch.matmul(absorbed, tokens.float().transpose(1, 2))
        if key_bias is not None:
            bias = key_bias.float().view(num_heads, head_dim)
            logits = logits + (scaled * bias).sum(-1, keepdim=True)
        return logits


def project_row(token: Tensor, weight: Tensor, bias: Tensor | None, *, num_heads: int) -> Tensor:
    """Return `token` [b, d] projected by `weight` [h * d_head, d] and split into heads, [b, h, d_head]."""
    with without_autocast(token):
        projected = torch.nn.functional.linear(
            token.float(), weight.float(), None if bias is None else bias.float()
        )
        return projected.view(token.shape[0], num_heads, -1)


def cls_row(tokens: Tensor, dim: int) -> Tensor:
    """Return token 0 of `tokens` along `dim`, which is removed."""
    return tokens.select(dim, 0)


def mean_row(tokens: Tensor, dim: int, *, num_prefix_tokens: int) -> Tensor:
    r"""Return the mean of the patches of `tokens` along `dim`, which is removed.

    Logits are linear in the query, so the mean query's logits are the mean of the patches' logits:
    $\bar q k^\top = \frac{1}{p} \sum_i q_i k^\top$.
    """
    return tokens.narrow(dim, num_prefix_tokens, tokens.shape[dim] - num_prefix_tokens).mean(dim)
