"""timm's Vision Transformers whose class token joins late, attends alone or sees several patch grids."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from einops import rearrange
from timm.models.cait import Cait, ClassAttn, TalkingHeadAttn
from timm.models.convit import GPSA, MHSA, ConVit
from timm.models.crossvit import CrossAttention, CrossVit
from timm.models.pit import PoolingVisionTransformer
from timm.models.tnt import TNT
from timm.models.tnt import Attention as TntAttention
from timm.models.volo import VOLO, ClassAttention, Downsample, OutlookAttention
from timm.models.volo import Attention as VoloAttention
from timm.models.xcit import XCA, Xcit
from torch import Tensor, nn

from vitreg.errors import UnsupportedModelError
from vitreg.families.registries import BlockParts, TowerParts, register_family, register_tower
from vitreg.families.timm_parts import pair, parameters_in, pixels_per_patch
from vitreg.functional import query_key_logits
from vitreg.types import AttentionReading, Probe, Row, Tap


@register_family(ClassAttn)
@register_family(ClassAttention)
@register_family(CrossAttention)
def class_attention(module: Any) -> AttentionReading:
    """Read the class token's query and all keys where they leave their projections."""
    if isinstance(module, CrossAttention):
        query_module, key_module = module.wq, module.wk
    else:
        query_module, key_module = module.q, module.kv if hasattr(module, "kv") else module.k

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        query = seen["query"].reshape(len(seen["query"]), module.num_heads, -1)
        key = seen["key"].unflatten(-1, (-1, module.num_heads, query.shape[-1]))[:, :, 0]  # of k and v, k
        return query_key_logits(query, key.transpose(1, 2), scale=module.scale)

    taps = {"query": Tap(query_module), "key": Tap(key_module)}
    return AttentionReading(module.num_heads, taps, logits, queries=("cls",))


@register_family(MHSA)
@register_family(TntAttention)
@register_family(VoloAttention)
def projected_attention(module: Any) -> AttentionReading:
    """Read q and k where they leave the projection that they share; VOLO's tokens lie in a grid."""
    projection, parts = (module.qk, 2) if hasattr(module, "qk") else (module.qkv, 3)

    def split(part: int, seen: Mapping[str, Any]) -> Tensor:
        heads = {"part": parts, "h": module.num_heads}
        return rearrange(seen["projected"], "b ... (part h d) -> part b h (...) d", **heads)[part]

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        return query_key_logits(row(split(0, seen), 2), split(1, seen), scale=module.scale)

    taps = {"projected": Tap(projection)}
    names = ("queries", "keys", "values")[:parts]
    return AttentionReading(
        module.num_heads, taps, logits, qkv={n: Probe(taps, partial(split, i)) for i, n in enumerate(names)}
    )


@register_family(TalkingHeadAttn)
def talking_head_attention(module: TalkingHeadAttn) -> AttentionReading:
    """Read the logits after `proj_l` has mixed the heads, [b, n, n, h], which is what enters the softmax."""

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        return row(seen["mixed"], 1).float().transpose(1, 2)

    return AttentionReading(module.num_heads, {"mixed": Tap(module.proj_l)}, logits, queries=("mean",))


@register_family(XCA)
@register_family(OutlookAttention)
@register_family(GPSA)
def other_attention(module: nn.Module) -> AttentionReading:
    """Refuse attention that is not one softmax over all tokens."""
    what = {
        XCA: "is attention between channels",
        OutlookAttention: "is attention inside small windows",
        GPSA: "mixes a softmax of the content with one of the positions",
    }
    found = next(words for cls, words in what.items() if isinstance(module, cls))
    raise UnsupportedModelError(
        f"Expected one softmax over all tokens; {type(module).__name__} {found}. "
        "Read msa_output or block_output."
    )


@register_tower(Cait)
@register_tower(Xcit)
@register_tower(ConVit)
def late_class_token(module: Any) -> TowerParts:
    """Say where CaiT, XCiT and ConViT keep their parts: their class token joins before the last blocks."""
    early, late = list(module.blocks), list(getattr(module, "blocks_token_only", None) or ())
    if isinstance(module, Xcit):
        late = list(module.cls_attn_blocks or ())
    elif isinstance(module, ConVit):
        early, late = early[: module.local_up_to_layer], early[module.local_up_to_layer :]
    embed = module.patch_embed
    any_size = isinstance(module, Xcit)
    return TowerParts(
        stem=embed,
        blocks=[
            *(
                BlockParts(block, block.attn, block.mlp, num_prefix_tokens=0, has_class_token=False)
                for block in early
            ),
            *(BlockParts(block, block.attn, block.mlp) for block in late),
        ],
        heads=("head",),
        num_prefix_tokens=1 if late else 0,
        has_class_token=bool(late),
        grid=None if any_size else pair(embed.grid_size),
        width=module.embed_dim,
        patch_size=(embed.patch_size, embed.patch_size) if any_size else pixels_per_patch(embed),
        position_embeddings=parameters_in(module, "pos_embed"),
    )


@register_tower(VOLO)
def volo(module: VOLO) -> TowerParts:
    """Say where VOLO keeps its parts: outlookers, transformers on a coarser grid, class attention."""
    late = list(module.post_network or ())
    rows, columns = pair(module.pos_embed.shape[1:3])  # added after the outlookers
    grid = rows * module.pooling_scale, columns * module.pooling_scale
    side = module.feature_info[0]["reduction"] * module.pooling_scale
    blocks = []
    for stage in module.network:
        if isinstance(stage, Downsample):
            grid = grid[0] // stage.proj.stride[0], grid[1] // stage.proj.stride[1]
            continue
        blocks += [
            BlockParts(
                block,
                block.attn,
                block.mlp,
                output=_flat(block.attn),
                whole=_flat(block),
                num_prefix_tokens=0,
                has_class_token=False,
                grid=grid,
            )
            for block in stage
        ]
    return TowerParts(
        stem=module.patch_embed,
        blocks=[*blocks, *(BlockParts(block, block.attn, block.mlp) for block in late)],
        heads=("head",) if module.aux_head is None else ("head", "aux_head"),
        num_prefix_tokens=1 if late else 0,
        has_class_token=bool(late),
        grid=(rows, columns),
        width=module.num_features,
        patch_size=(side, side),
        position_embeddings=parameters_in(module, "pos_embed"),
    )


def _flat(module: nn.Module) -> Probe:
    """Return how a module's output [b, height, width, d] is read as tokens, [b, n, d]."""
    return Probe({"output": Tap(module)}, lambda seen: seen["output"].flatten(1, 2))


@register_tower(PoolingVisionTransformer)
def pit(module: PoolingVisionTransformer) -> TowerParts:
    """Say where PiT keeps its parts: each stage has a coarser grid; the tower's is the last one's."""
    grid, blocks = pair(module.patch_embed.grid_size), []
    for stage in module.transformers:
        if stage.pool is not None:
            grid = _after(stage.pool.conv, grid)
        blocks += [BlockParts(block, block.attn, block.mlp, grid=grid) for block in stage.blocks]
    return TowerParts(
        stem=module.patch_embed,
        blocks=blocks,
        heads=("head",) if module.head_dist is None else ("head", "head_dist"),
        num_prefix_tokens=module.num_tokens,
        has_class_token=True,
        grid=grid,
        width=module.embed_dim,
        position_embeddings=parameters_in(module, "pos_embed"),  # no patch_size: patches overlap
    )


def _after(conv: nn.Conv2d, grid: tuple[int, int]) -> tuple[int, int]:
    """Return the grid that a convolution makes of a grid."""
    (top, left), (rows, columns), (down, right) = pair(conv.padding), conv.kernel_size, conv.stride
    return (grid[0] + 2 * top - rows) // down + 1, (grid[1] + 2 * left - columns) // right + 1


@register_tower(CrossVit)
def crossvit(module: CrossVit) -> TowerParts:
    """Say where CrossViT keeps its parts, in running order.

    The model itself receives the picture, as each branch rescales it, so grids are fixed. The tower's grid
    and width are those of the last block: the first branch's.
    """
    grids = [(e.img_size[0] // e.patch_size[0], e.img_size[1] // e.patch_size[1]) for e in module.patch_embed]
    blocks: list[BlockParts] = []
    for stage in module.blocks:
        for branch, grid in zip(stage.blocks, grids, strict=True):
            blocks += [BlockParts(block, block.attn, block.mlp, grid=grid) for block in branch]
        for index, fusion in enumerate(
            stage.fusion
        ):  # a branch's class token looks at the next one's patches
            first, *more = list[Any](fusion if isinstance(fusion, nn.Sequential) else [fusion])
            blocks.append(BlockParts(first, first.attn, grid=grids[(index + 1) % len(grids)]))
            blocks += [
                BlockParts(block, block.attn, has_class_token=False) for block in more
            ]  # no patches left
    return TowerParts(
        stem=module,
        blocks=blocks,
        heads=tuple(f"head.{index}" for index in range(len(grids))),
        num_prefix_tokens=1,
        has_class_token=True,
        grid=grids[0],
        width=module.embed_dim[0],
        position_embeddings=parameters_in(module, *(f"pos_embed_{i}" for i in range(len(grids)))),
    )


@register_tower(TNT)
def tnt(module: TNT) -> TowerParts:
    """Say where TNT keeps its parts; attention is read between patches, not inside them."""
    return TowerParts(
        stem=module.pixel_embed,
        blocks=[
            BlockParts(
                block,
                block.attn_out,
                block.mlp,
                whole=Probe({"output": Tap(block)}, lambda seen: seen["output"][1]),  # after the pixels
            )
            for block in module.blocks
        ],
        heads=("head",),
        num_prefix_tokens=1,
        has_class_token=True,
        grid=pair(module.pixel_embed.grid_size),
        width=module.embed_dim,
        patch_size=pair(module.pixel_embed.patch_size),
        position_embeddings=parameters_in(module, "patch_pos", "pixel_pos"),
    )
