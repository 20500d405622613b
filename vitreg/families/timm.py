"""timm's plain Vision Transformers: `VisionTransformer`, `Eva`, `Beit` and what derives from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from timm.layers.attention import Attention, AttentionRope
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import Beit
from timm.models.eva import Eva, EvaAttention
from timm.models.naflexvit import NaFlexVit
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor, nn

from vitreg.families.qkv import project_heads, projected_values, qkv_probes, tap_modules
from vitreg.families.registries import (
    TowerParts,
    refuse_changed_weights,
    refuse_mask,
    register_family,
    register_tower,
)
from vitreg.families.timm_parts import (
    block_parts,
    pair,
    parameters_in,
    pixels_covered,
    pixels_per_patch,
    pooling,
)
from vitreg.functional import absorbed_key_logits, cls_row, project_row, query_key_logits
from vitreg.types import AttentionReading, Probe, Row, Tap


@register_family(Attention)
def attention(module: Attention) -> AttentionReading:
    """Read q and k where they leave their norms, which are called even as `nn.Identity`."""

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        refuse_mask(module, seen["call"], 1)
        query = row(seen["query"], 2)
        return query_key_logits(query, seen["key"], scale=_scale(module, query))

    taps = {"call": Tap(module, "input"), "query": Tap(module.q_norm), "key": Tap(module.k_norm)}
    qkv = tap_modules(
        module.q_norm, module.k_norm, projected_values(module.qkv, module.num_heads, part=2, parts=3)
    )
    return AttentionReading(module.num_heads, taps, logits, qkv=qkv)


def _scale(module: Any, query: Tensor) -> float:
    """Return the logits' scale; fused attention takes the usual one, whatever `scale` says."""
    return float(query.shape[-1] ** -0.5 if module.fused_attn else module.scale)


@register_family(AttentionRope)
@register_family(EvaAttention)
def rotary_attention(module: AttentionRope | EvaAttention) -> AttentionReading:
    """Read q and k at their norms and rotate them as the module does afterwards."""

    def rotate(tokens: Tensor, rope: Tensor | None) -> Tensor:
        if rope is None:
            return tokens
        num_prefix = module.num_prefix_tokens
        prefix, patches = tokens[:, :, :num_prefix], tokens[:, :, num_prefix:]
        half = getattr(module, "rotate_half", False)
        return torch.cat([prefix, apply_rot_embed_cat(patches, rope, half=half)], dim=2).type_as(tokens)

    groups = getattr(module, "num_kv_groups", 1)

    def query_key(seen: Mapping[str, Any], *, is_turned: bool = True) -> tuple[Tensor, Tensor]:
        args, kwargs = seen["call"]
        rope = args[1] if len(args) > 1 else kwargs.get("rope")
        key = rotate(seen["key"], rope)
        if groups > 1:
            key = key.repeat_interleave(groups, dim=1)
        return rotate(seen["query"], rope) if is_turned else seen["query"], key

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        refuse_mask(module, seen["call"], 2)
        # Prefix tokens are not rotated.
        query, key = query_key(seen, is_turned=row is not cls_row or module.num_prefix_tokens == 0)
        return query_key_logits(row(query, 2), key, scale=_scale(module, query))

    taps = {"call": Tap(module, "input"), "query": Tap(module.q_norm), "key": Tap(module.k_norm)}
    qkv = qkv_probes(taps, query_key, _rotary_values(module, groups))
    return AttentionReading(module.num_heads, taps, logits, qkv=qkv)


def _rotary_values(module: Any, groups: int) -> Probe:
    """Return how v is read, which `EvaAttention` with biases of its own computes from a weight."""
    if module.qkv is None:
        own = projected_values(module.v_proj, module.num_heads // groups)
        return replace(own, read=lambda seen: own.read(seen).repeat_interleave(groups, dim=1))
    if getattr(module, "q_bias", None) is None:
        return projected_values(module.qkv, module.num_heads, part=2, parts=3)
    return _values_of_weight(module)


def _values_of_weight(module: Any) -> Probe:
    """Return how v is computed from the third part of a weight and a bias of its own."""

    def read(seen: Mapping[str, Any]) -> Tensor:
        refuse_changed_weights(module.qkv)
        return project_heads(
            seen["call"][0][0], module.qkv.weight.chunk(3)[2], module.v_bias, module.num_heads
        )

    return Probe({"call": Tap(module, "input")}, read)


@register_family(BeitAttention)
def beit_attention(module: BeitAttention) -> AttentionReading:
    """Read by the absorbed key (q and k leave no module) and add the relative-position row."""
    calls_projection = module.q_bias is None or getattr(module, "qkv_bias_separate", False)
    if calls_projection or hasattr(module.qkv, "parametrizations"):  # otherwise only its weight is used
        refuse_changed_weights(module.qkv)

    def position_row(row: Row) -> Tensor | float:
        if module.relative_position_bias_table is None:
            return 0.0
        table, index = module.relative_position_bias_table, module.relative_position_index
        bias = table[index[0]] if row is cls_row else row(table[index], 0)  # [n, h]
        return bias.float().T

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        args, kwargs = seen["call"]
        tokens = args[0]
        shared = args[1] if len(args) > 1 else kwargs.get("shared_rel_pos_bias")
        query_weight, key_weight, _ = module.qkv.weight.chunk(3)
        query = project_row(row(tokens, 1), query_weight, module.q_bias, num_heads=module.num_heads)
        content = absorbed_key_logits(query, tokens, key_weight, module.k_bias, scale=module.scale)
        content = content + position_row(row)
        return content if shared is None else content + row(shared, -2).float()

    def query_key(seen: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        parts = zip(module.qkv.weight.chunk(3), (module.q_bias, module.k_bias), strict=False)
        tokens, num_heads = seen["call"][0][0], module.num_heads
        query, key = (project_heads(tokens, weight, bias, num_heads) for weight, bias in parts)
        return query, key

    taps = {"call": Tap(module, "input")}
    qkv = qkv_probes(taps, query_key, _values_of_weight(module))
    return AttentionReading(module.num_heads, taps, logits, qkv=qkv)


@register_tower(VisionTransformer)
@register_tower(VisionTransformerRelPos)
@register_tower(Eva)
@register_tower(Beit)
def vision_transformer(module: nn.Module) -> TowerParts:
    """Say where timm's plain Vision Transformers keep their parts."""
    m: Any = module
    embed = m.patch_embed
    strict = getattr(embed, "strict_img_size", True)  # otherwise the grid is known at run time only
    return TowerParts(
        stem=embed,
        blocks=[block_parts(block) for block in m.blocks],
        heads=("head",) if getattr(m, "head_dist", None) is None else ("head", "head_dist"),
        num_prefix_tokens=m.num_prefix_tokens,
        has_class_token=m.cls_token is not None,
        grid=pair(embed.grid_size) if strict and hasattr(embed, "grid_size") else None,
        width=m.embed_dim,
        patch_size=pixels_per_patch(embed),
        covered=pixels_covered(embed),
        position_embeddings=parameters_in(m, "pos_embed", "rel_pos_bias", "shared_rel_pos"),
        pool=pooling(m, has_class_token=m.cls_token is not None),
    )


@register_tower(NaFlexVit)
def naflex_vit(module: NaFlexVit) -> TowerParts:
    """Say where `NaFlexVit` keeps its parts; read on images: patches with padding come with a mask."""
    return TowerParts(
        stem=module.embeds,
        blocks=[block_parts(block) for block in module.blocks],
        heads=("head",),
        num_prefix_tokens=module.num_prefix_tokens,
        has_class_token=module.has_class_token,
        grid=None,
        width=module.embed_dim,
        patch_size=pixels_per_patch(module.embeds),
        position_embeddings=parameters_in(module, *(f"embeds.pos_embed{axis}" for axis in ("", "_y", "_x"))),
        pool=pooling(module, has_class_token=module.has_class_token),
    )
