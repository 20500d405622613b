"""open_clip's built-in vision towers; its timm towers are timm's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.timm_model import TimmModel
from open_clip.transformer import Attention, VisionTransformer
from torch import Tensor

from vitreg.errors import UnsupportedModelError
from vitreg.families.registries import (
    BlockParts,
    TowerParts,
    composites,
    refuse_mask,
    register_family,
    register_tower,
)
from vitreg.functional import query_key_logits
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
    return AttentionReading(module.num_heads, taps, logits)


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
    )
