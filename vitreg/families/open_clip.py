"""open_clip's built-in vision towers; its timm towers are timm's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.timm_model import TimmModel
from open_clip.transformer import Attention, AttentionalPooler, VisionTransformer
from torch import Tensor

from vitreg.errors import UnsupportedModelError
from vitreg.families.qkv import tap_modules
from vitreg.families.registries import (
    BlockParts,
    TowerParts,
    composites,
    refuse_changed_weights,
    refuse_mask,
    register_family,
    register_tower,
)
from vitreg.functional import absorbed_key_logits, project_row, query_key_logits
from vitreg.types import AttentionReading, Row, Tap

composites |= {CLIP, CustomTextCLIP, CoCa, TimmModel}


@register_family(Attention)
def attention(module: Attention) -> AttentionReading:
    """Read q and k where they leave their norms, which are called even as `nn.Identity`."""
    if module.logit_scale is not None:
        raise UnsupportedModelError(
            "open_clip's Attention is read with scaled dot products, found scaled_cosine=True. "
            "Read block_output."
        )

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        refuse_mask(module, seen["call"], 1)
        return query_key_logits(row(seen["query"], 2), seen["key"], scale=module.scale)

    taps = {"call": Tap(module, "input"), "query": Tap(module.ln_q), "key": Tap(module.ln_k)}
    return AttentionReading(module.num_heads, taps, logits, qkv=tap_modules(module.ln_q, module.ln_k))


@register_family(AttentionalPooler)
def attentional_pooler(module: AttentionalPooler) -> AttentionReading:
    """Read the query that is pooled, CoCa's first latent query, by the absorbed key."""
    attention = module.attn
    refuse_changed_weights(attention)
    width = attention.embed_dim

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        if attention.in_proj_weight is None:  # tokens of another width than the queries
            query_weight, key_weight = attention.q_proj_weight, attention.k_proj_weight
        else:
            query_weight, key_weight, _ = attention.in_proj_weight.chunk(3)
        query_bias, key_bias, _ = attention.in_proj_bias.chunk(3)
        tokens = seen["tokens"]
        query = project_row(seen["query"][:1], query_weight, query_bias, num_heads=attention.num_heads)
        query = query.expand(tokens.shape[0], -1, -1)
        scale = (width // attention.num_heads) ** -0.5
        return absorbed_key_logits(query, tokens, key_weight, key_bias, scale=scale)

    taps = {"query": Tap(module.ln_q), "tokens": Tap(module.ln_k)}
    return AttentionReading(attention.num_heads, taps, logits, queries=("pool",))


def _pool(module: VisionTransformer) -> BlockParts | None:
    """Return the attention pooling whose first query becomes the image's embedding, if there is one."""
    pool = module.attn_pool
    if pool is None:
        return None
    if module.attn_pool_contrastive is None:
        return BlockParts(pool, pool) if module.pool_type == "tok" else None
    if module.attn_pool_type == "parallel":
        return BlockParts(module.attn_pool_contrastive, module.attn_pool_contrastive)
    return None  # in a cascade it looks at the first pooling's tokens, which are no patches


@register_tower(VisionTransformer)
def vision_transformer(module: VisionTransformer) -> TowerParts:
    """Say where open_clip's `VisionTransformer` keeps its parts."""
    transformer = module.transformer
    return TowerParts(
        stem=module.conv1,
        blocks=[BlockParts(block, block.attn, block.mlp) for block in transformer.resblocks],
        heads=(),  # the projection is pre-trained; a new head is the user's own module around the tower
        num_prefix_tokens=1,
        has_class_token=True,
        grid=module.grid_size,
        width=transformer.width,
        patch_size=module.patch_size,
        position_embeddings=("positional_embedding",),
        batch_first=getattr(transformer, "batch_first", True),
        pool=_pool(module),
    )
