"""timm's attention classes beside the plain one: relative positions, parallel blocks, attention pooling."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.pos_embed_rel import RelPosBias, RelPosMlp
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock
from timm.models.vision_transformer_relpos import RelPosAttention
from torch import Tensor, nn

from vitreg.errors import UnsupportedModelError
from vitreg.families.qkv import projected_values, qkv_probes, tap_modules
from vitreg.families.registries import TowerParts, families, refuse_mask, register_family, register_tower
from vitreg.families.timm_parts import block_parts, existing, pair, parameters_in, pixels_per_patch
from vitreg.functional import cls_row, query_key_logits
from vitreg.types import AttentionReading, Probe, Row, Tap


@register_family(RelPosAttention)
def relative_position_attention(module: RelPosAttention) -> AttentionReading:
    """Read q and k at their norms and add the row of relative positions: its own or the shared ones."""
    own = module.rel_pos
    taps = {"call": Tap(module, "input"), "query": Tap(module.q_norm), "key": Tap(module.k_norm)}
    if isinstance(own, RelPosMlp):
        taps["table"] = Tap(own.mlp)  # has dropout, so it cannot be computed a second time
    elif own is not None and not isinstance(own, RelPosBias):
        raise UnsupportedModelError(
            f"RelPosAttention is read with RelPosBias or RelPosMlp, found {type(own).__name__}. "
            "Read block_output."
        )

    def position_row(seen: Mapping[str, Any], row: Row) -> Tensor | float:
        if isinstance(own, RelPosMlp):
            return _mlp_row(own, seen["table"], row)
        if own is not None:
            index = own.relative_position_index.view(own.bias_shape[:2])
            bias = own.relative_position_bias_table[index[:1] if row is cls_row else index]
            return row(bias, 0).float().T
        args, kwargs = seen["call"]
        shared = args[1] if len(args) > 1 else kwargs.get("shared_rel_pos")
        return 0.0 if shared is None else row(shared, -2).float()

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        content = query_key_logits(row(seen["query"], 2), seen["key"], scale=module.scale)
        return content + position_row(seen, row)

    qkv = tap_modules(
        module.q_norm, module.k_norm, projected_values(module.qkv, module.num_heads, part=2, parts=3)
    )
    return AttentionReading(module.num_heads, taps, logits, qkv=qkv)


def _mlp_row(own: RelPosMlp, table: Tensor, row: Row) -> Tensor | float:
    """Return the query's row of the bias that a `RelPosMlp` makes of its MLP's output, [h, n]."""
    if own.prefix_tokens and row is cls_row:
        return 0.0  # a class token has no position
    table = own.bias_act(table.reshape(-1, own.num_heads).float())
    if own.bias_gain is not None:
        table = own.bias_gain * table
    bias = table[own.relative_position_index.view(own.window_area, own.window_area)]
    prefix = own.prefix_tokens
    return row(F.pad(bias, (0, 0, prefix, 0, prefix, 0)), 0).T


@register_family(ParallelScalingBlock)
def parallel_scaling_block(block: ParallelScalingBlock) -> AttentionReading:
    """Read a block that computes attention and MLP side by side: q and k at their norms, [b, n, h, d]."""

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        refuse_mask(block, seen["call"], 1)
        return query_key_logits(row(seen["query"], 1), seen["key"].transpose(1, 2), scale=block.scale)

    taps = {"call": Tap(block, "input"), "query": Tap(block.q_norm), "key": Tap(block.k_norm)}
    qkv = qkv_probes(taps, lambda seen: (seen["query"].transpose(1, 2), seen["key"].transpose(1, 2)))
    return AttentionReading(block.num_heads, taps, logits, parallel_output(block), qkv=qkv)


def parallel_output(block: nn.Module) -> Probe:
    """Return how a parallel block's attention is read after its projection, which the MLP may share."""
    fused: Any = getattr(block, "out_proj", None)
    if fused is None:
        return Probe({"output": Tap(block.get_submodule("attn_out_proj"))}, lambda seen: seen["output"])

    def attention_part(seen: Mapping[str, Any]) -> Tensor:
        if hasattr(fused, "base_layer"):
            raise UnsupportedModelError(
                f"msa_output of {type(block).__name__} is computed from the weight of out_proj, found an "
                "adapter on it. Leave out_proj without one, or read block_output."
            )
        width = fused.weight.shape[0]  # the bias is the MLP's as much as the attention's
        return F.linear(seen["call"][0][0][..., :width], fused.weight[:, :width])

    return Probe({"call": Tap(fused, "input")}, attention_part)


@register_family(ParallelThingsBlock)
def parallel_things_block(block: ParallelThingsBlock) -> AttentionReading:
    """Read a block of several attentions side by side: all their heads, and their outputs' sum."""
    modules: list[nn.Module] = [branch.attn for branch in block.attns]
    readings = [_reading_of(module) for module in modules]
    taps = {f"{i} {key}": tap for i, one in enumerate(readings) for key, tap in one.taps.items()}

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        each = [
            one.logits({key: seen[f"{i} {key}"] for key in one.taps}, row) for i, one in enumerate(readings)
        ]
        return torch.cat(each, dim=1)

    output = Probe(
        {str(i): Tap(module) for i, module in enumerate(modules)},
        lambda seen: torch.stack(list(seen.values())).sum(0),
    )
    return AttentionReading(sum(one.num_heads for one in readings), taps, logits, output)


def _reading_of(module: nn.Module) -> AttentionReading:
    family = families.find(module)
    if family is None:
        raise UnsupportedModelError(
            f"ParallelThingsBlock is read where its attentions are of a known class, found "
            f"{type(module).__name__}. Register it with `@vitreg.register_family`, or read block_output."
        )
    return family(module)


@register_family(AttentionPoolLatent)
def attention_pool(module: AttentionPoolLatent) -> AttentionReading:
    """Read the pooled token's query: the first latent, or the latents' mean, as it pools them."""
    if module.latent_len > 1 and module.pool not in ("token", "avg"):
        raise UnsupportedModelError(
            f"AttentionPoolLatent is read where it returns one token, found {module.latent_len} latents that "
            "are not pooled. Use pool_type='token' or 'avg'."
        )

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        refuse_mask(module, seen["call"], 1)
        latents = seen["query"]  # [b, h, latents, d]
        query = latents.mean(2) if module.pool == "avg" else latents[:, :, 0]
        return query_key_logits(query, seen["key"], scale=module.scale)

    taps = {"call": Tap(module, "input"), "query": Tap(module.q_norm), "key": Tap(module.k_norm)}
    return AttentionReading(module.num_heads, taps, logits, queries=("pool",))


def differential_attention(module: Any) -> AttentionReading:
    """Read two attention maps a head, each counted as a head: head 0's two, then head 1's two, …"""

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        refuse_mask(module, seen["call"], 1)
        return query_key_logits(row(seen["query"], 2), seen["key"], scale=module.scale)

    taps = {"call": Tap(module, "input"), "query": Tap(module.q_norm), "key": Tap(module.k_norm)}
    is_block = hasattr(module, "out_proj")
    output = parallel_output(module) if is_block else None
    qkv = tap_modules(module.q_norm, module.k_norm)
    return AttentionReading(2 * module.num_heads, taps, logits, output, maps_per_head=2, qkv=qkv)


for cls in (
    *existing("timm.layers.diff_attention", "DiffAttention"),
    *existing("timm.models.vision_transformer", "DiffParallelScalingBlock"),
):
    register_family(cls)(differential_attention)


def gemma_attention(module: Any) -> AttentionReading:
    """Read q and k at their norms, [b, n, h, d], and rotate them by their place in height and width."""
    rotate = importlib.import_module("timm.models.gemma4_vit").apply_multidimensional_rope

    def query_key(seen: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        args, kwargs = seen["call"]
        cos = args[1] if len(args) > 1 else kwargs["rope_cos"]
        sin = args[2] if len(args) > 2 else kwargs["rope_sin"]
        query, key = rotate(seen["query"], cos, sin), rotate(seen["key"], cos, sin)
        return query.transpose(1, 2), key.repeat_interleave(module.num_kv_groups, dim=2).transpose(1, 2)

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        refuse_mask(module, seen["call"], 3)
        query, key = query_key(seen)
        return query_key_logits(row(query, 2), key, scale=1.0)

    taps = {"call": Tap(module, "input"), "query": Tap(module.q_norm), "key": Tap(module.k_norm)}
    return AttentionReading(module.num_heads, taps, logits, qkv=qkv_probes(taps, query_key))


for cls in existing("timm.models.gemma4_vit", "Gemma4Attention"):
    register_family(cls)(gemma_attention)


def refining_pool(module: Any) -> AttentionReading:
    """Read the token that is pooled: attention without projections; the first or the mean is kept."""

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        tokens = seen["tokens"].unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        query = tokens[:, :, 0] if module.pool == "token" else tokens.mean(2)
        return query_key_logits(query, tokens, scale=module.scale)

    return AttentionReading(module.num_heads, {"tokens": Tap(module.pre_norm)}, logits, queries=("pool",))


for cls in existing("timm.layers.attention_pool", "AttentionPoolPrr"):
    register_family(cls)(refining_pool)


def language_model_vit(module: nn.Module) -> TowerParts:
    """Say where the vision encoders of language models, and the classifiers around them, keep their parts."""
    is_classifier = hasattr(module, "encoder")
    encoder: Any = module.encoder if is_classifier else module
    place = "encoder." if is_classifier else ""
    embed = encoder.patch_embed
    return TowerParts(
        stem=embed,
        blocks=[block_parts(block) for block in encoder.blocks],
        heads=("head",) if is_classifier else (),
        num_prefix_tokens=0,
        has_class_token=False,
        grid=None,
        width=encoder.embed_dim,
        patch_size=pixels_per_patch(embed) if hasattr(embed, "feat_ratio") else pair(embed.patch_size),
        position_embeddings=parameters_in(
            module, f"{place}pos_embed", f"{place}patch_embed.position_embedding_table"
        ),
    )


for cls in (
    *existing("timm.models.gemma4_vit", "Gemma4VitEncoder", "Gemma4VitClassifier"),
    *existing("timm.models.qwen3_vit", "Qwen3VitEncoder", "Qwen3VitClassifier"),
    *existing("timm.models.deepseek_vit", "DeepseekVitEncoder", "DeepseekVitClassifier"),
):
    register_tower(cls)(language_model_vit)
