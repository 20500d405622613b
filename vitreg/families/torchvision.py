"""torchvision's `VisionTransformer`; its attention is `nn.MultiheadAttention`."""

from __future__ import annotations

from torchvision.models.vision_transformer import VisionTransformer

from vitreg.families.registries import BlockParts, TowerParts, register_tower


@register_tower(VisionTransformer)
def vision_transformer(module: VisionTransformer) -> TowerParts:
    """Say where torchvision's `VisionTransformer` keeps its parts."""
    side = module.image_size // module.patch_size
    return TowerParts(
        stem=module.conv_proj,
        blocks=[BlockParts(block, block.self_attention, block.mlp) for block in module.encoder.layers],
        heads=("heads",),
        num_prefix_tokens=1,
        has_class_token=True,
        grid=(side, side),
        width=module.hidden_dim,
        patch_size=(module.patch_size, module.patch_size),
        position_embeddings=("encoder.pos_embedding",),
    )
