"""`nn.MultiheadAttention`, as used by open_clip's and torchvision's Vision Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitreg.errors import UnsupportedModelError
from vitreg.families.qkv import project_heads
from vitreg.families.registries import refuse_changed_weights, register_family
from vitreg.functional import absorbed_key_logits, project_row
from vitreg.types import AttentionReading, Probe, Row, Tap


@register_family(nn.MultiheadAttention)
def multihead_attention(attention: nn.MultiheadAttention) -> AttentionReading:
    """Read self-attention by the absorbed key: its q and k never leave the fused kernel."""
    if attention.in_proj_weight is None or attention.bias_k is not None or attention.add_zero_attn:
        raise UnsupportedModelError(
            "nn.MultiheadAttention is read as self-attention with one width and without bias_k or "
            "add_zero_attn; found one with kdim, vdim, bias_k or add_zero_attn."
        )
    refuse_changed_weights(attention)
    width, num_heads = attention.embed_dim, attention.num_heads

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        args, kwargs = seen["call"]
        inputs = (*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs))
        padding = args[3] if len(args) > 3 else kwargs.get("key_padding_mask")
        mask = args[5] if len(args) > 5 else kwargs.get("attn_mask")
        if inputs[0] is not inputs[1] or mask is not None or padding is not None:
            raise UnsupportedModelError(
                "Expected self-attention without a mask; this nn.MultiheadAttention was called with "
                f"{'a mask' if inputs[0] is inputs[1] else 'different query and key'}. Read block_output."
            )
        tokens = inputs[0] if attention.batch_first else inputs[0].transpose(0, 1)
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        assert weight is not None
        query = project_row(
            row(tokens, 1), weight[:width], None if bias is None else bias[:width], num_heads=num_heads
        )
        key_bias = None if bias is None else bias[width : 2 * width]
        scale = attention.head_dim**-0.5
        return absorbed_key_logits(query, tokens, weight[width : 2 * width], key_bias, scale=scale)

    def output(seen: Mapping[str, Any]) -> Tensor:
        returned: Tensor = seen["output"][0]
        return returned if attention.batch_first else returned.transpose(0, 1)

    def part(number: int) -> Probe:
        def read(seen: Mapping[str, Any]) -> Tensor:
            args, kwargs = seen["call"]
            tokens = args[0] if args else kwargs["query"]
            tokens = tokens if attention.batch_first else tokens.transpose(0, 1)
            weight, bias = attention.in_proj_weight, attention.in_proj_bias
            assert weight is not None
            own_bias = None if bias is None else bias.chunk(3)[number]
            return project_heads(tokens, weight.chunk(3)[number], own_bias, num_heads)

        return Probe({"call": Tap(attention, "input")}, read)

    probe = Probe({"output": Tap(attention)}, output)
    qkv = {name: part(number) for number, name in enumerate(("queries", "keys", "values"))}
    return AttentionReading(num_heads, {"call": Tap(attention, "input")}, logits, probe, qkv=qkv)
