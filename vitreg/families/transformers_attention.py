"""How attention is computed in Hugging Face's Vision Transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vitreg.errors import UnsupportedModelError
from vitreg.families.qkv import projected_values, qkv_probes
from vitreg.families.registries import refuse_changed_weights
from vitreg.functional import absorbed_key_logits, cls_row, project_row, query_key_logits
from vitreg.types import AttentionReading, Row, Tap


def attention(module: Any) -> AttentionReading:
    """Read q and k where they leave their projections, whichever attention implementation follows."""

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        _check_mask(module, seen["call"], allowed=False)
        query, key = _query_key(module, seen)
        return query_key_logits(row(query, 2), key, scale=_scale(module))

    return _reading(module, logits)


def fused_attention(module: Any) -> AttentionReading:
    """Read q and k of BLIP, whose one projection has q, k and v side by side."""

    def query_key(seen: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        query, key, _ = seen["qkv"].unflatten(-1, (3, module.num_heads, -1)).unbind(2)
        return query.transpose(1, 2), key.transpose(1, 2)

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        query, key = query_key(seen)
        return query_key_logits(row(query, 2), key, scale=module.scale)

    taps = {"qkv": Tap(module.qkv)}
    qkv = qkv_probes(taps, query_key, projected_values(module.qkv, module.num_heads, part=2, parts=3))
    return AttentionReading(module.num_heads, taps, logits, qkv=qkv)


def normed_attention(module: Any) -> AttentionReading:
    """Read q and k of InternVL where they leave their norms, which are called even as `nn.Identity`."""
    taps = {"query": Tap(module.q_norm), "key": Tap(module.k_norm)}

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        _check_mask(module, seen["call"], allowed=False)
        query, key = _query_key(module, seen)
        return query_key_logits(row(query, 2), key, scale=_scale(module))

    return _reading(module, logits, taps)


def data2vec_attention(module: Any) -> AttentionReading:
    """Read q and k of data2vec, with its block's own relative positions and those that all blocks share."""
    inner = module.attention
    taps = {"call": Tap(module, "input"), "query": Tap(inner.query), "key": Tap(inner.key)}
    if inner.has_relative_position_bias:
        taps["bias"] = Tap(inner.relative_position_bias)

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        args, kwargs = seen["call"]
        query, key = _query_key(module, seen, inner.num_attention_heads)
        content = query_key_logits(row(query, 2), key, scale=query.shape[-1] ** -0.5)
        shared = args[2] if len(args) > 2 else kwargs.get("relative_position_bias")
        for bias in (seen.get("bias"), shared):
            content = content if bias is None else content + row(bias, 2).float()
        return content

    heads = inner.num_attention_heads
    own = {"query": taps["query"], "key": taps["key"]}
    qkv = qkv_probes(own, lambda seen: _query_key(module, seen, heads), projected_values(inner.value, heads))
    return AttentionReading(heads, taps, logits, qkv=qkv)


def token_pooling(head: Any) -> AttentionReading:
    """Read AIMv2's pooling, whose one query is a learned token without a projection."""

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        key = seen["key"].unflatten(-1, (head.num_heads, -1)).transpose(1, 2)
        query = head.cls_token.view(1, head.num_heads, -1).expand(key.shape[0], -1, -1)
        return query_key_logits(query, key, scale=key.shape[-1] ** -0.5)

    return AttentionReading(head.num_heads, {"key": Tap(head.k_proj)}, logits, queries=("pool",))


def biased_attention(module: Any) -> AttentionReading:
    """Read q and k where they leave their projections; BEiT's relative positions come in as the mask."""

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        config = module.config
        positions = config.use_relative_position_bias or config.use_shared_relative_position_bias
        bias = _check_mask(module, seen["call"], allowed=positions)
        query, key = _query_key(module, seen)
        content = query_key_logits(row(query, 2), key, scale=_scale(module))
        return content if bias is None else content + row(bias, 2).float()

    return _reading(module, logits)


def rotary_attention(module: Any) -> AttentionReading:
    """Read q and k where they leave their projections and rotate the patches as the module does."""

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        _check_mask(module, seen["call"], allowed=False)
        args, kwargs = seen["call"]
        cos, sin = args[2] if len(args) > 2 else kwargs["position_embeddings"]
        query, key = _query_key(module, seen)
        if row is not cls_row:  # the class token is not rotated
            query = _rotate(query, cos, sin)
        return query_key_logits(row(query, 2), _rotate(key, cos, sin), scale=_scale(module))

    def query_key(seen: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        args, kwargs = seen["call"]
        cos, sin = args[2] if len(args) > 2 else kwargs["position_embeddings"]
        query, key = _query_key(module, seen)
        return _rotate(query, cos, sin), _rotate(key, cos, sin)

    reading = _reading(module, logits)
    return replace(reading, qkv=qkv_probes(reading.taps, query_key, reading.qkv["values"]))


def attention_pooling(head: Any) -> AttentionReading:
    """Read SigLIP's pooling, whose one query is a learned probe, by the absorbed key."""
    attention = head.attention
    refuse_changed_weights(attention)

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        (tokens,), _ = seen["call"]
        query_weight, key_weight, _ = attention.in_proj_weight.chunk(3)
        query_bias, key_bias, _ = attention.in_proj_bias.chunk(3)
        probe = head.probe[:, 0].expand(tokens.shape[0], -1)
        query = project_row(probe, query_weight, query_bias, num_heads=attention.num_heads)
        return absorbed_key_logits(query, tokens, key_weight, key_bias, scale=attention.head_dim**-0.5)

    return AttentionReading(attention.num_heads, {"call": Tap(head, "input")}, logits, queries=("pool",))


def _check_implementation(config: Any) -> None:
    """Refuse an attention function of somebody's own, which may change the logits."""
    name = str(config._attn_implementation)
    if name not in ("eager", "sdpa", "flex_attention") and "flash" not in name:
        raise UnsupportedModelError(
            f"Expected attn_implementation 'eager', 'sdpa' or a flash attention, found {name!r}. "
            "Read block_output."
        )


def _reading(
    module: Any,
    logits: Callable[[Mapping[str, Any], Row], Tensor],
    taps: Mapping[str, Tap] | None = None,
) -> AttentionReading:
    _check_implementation(module.config)
    taps = taps or {"query": Tap(module.q_proj), "key": Tap(module.k_proj)}
    heads = module.config.num_attention_heads
    qkv = qkv_probes(taps, lambda seen: _query_key(module, seen), projected_values(module.v_proj, heads))
    return AttentionReading(heads, {"call": Tap(module, "input"), **taps}, logits, qkv=qkv)


def _query_key(module: Any, seen: Mapping[str, Any], num_heads: int | None = None) -> tuple[Tensor, Tensor]:
    """Return q and k, each [b, h, n, d_head]."""
    heads = (num_heads or module.config.num_attention_heads, -1)
    query, key = (seen[name].unflatten(-1, heads) for name in ("query", "key"))
    return query.transpose(1, 2), key.transpose(1, 2)


def _scale(module: Any) -> float:
    return float(module.scale if hasattr(module, "scale") else module.scaling)


def _rotate(tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return [b, h, n, d_head] with the patches rotated; the tokens before them have no position."""
    num_prefix = tokens.shape[2] - cos.shape[-2]
    prefix, patches = tokens[:, :, :num_prefix], tokens[:, :, num_prefix:]
    first, second = patches.chunk(2, dim=-1)
    turned = patches * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([prefix, turned], dim=2)


def _check_mask(module: Any, call: tuple[tuple[Any, ...], dict[str, Any]], *, allowed: bool) -> Any:
    """Return what is added to the logits, [1, h, n, n] or None; raise if it is a mask of each image."""
    args, kwargs = call
    mask = args[1] if len(args) > 1 else kwargs.get("attention_mask")
    if mask is not None and not (allowed and mask.shape[0] == 1):
        raise UnsupportedModelError(
            f"Expected attention over all tokens; this {type(module).__name__} was called with a mask. "
            "Call it without attention_mask (flex_attention always has one: use sdpa), or read block_output."
        )
    return mask
