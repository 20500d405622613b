"""Where one query of each block looks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitreg.errors import ArgumentError, MismatchError, UnsupportedModelError, in_words
from vitreg.extractors import blocks_read, check_query
from vitreg.families import find_tower
from vitreg.functional import attention_share, object_masks, patch_coverage
from vitreg.functional.precision import autocast_now
from vitreg.grids import block_grid, covered_size
from vitreg.reader import Reader
from vitreg.sources.forward import evaluating, run_tower
from vitreg.sources.frozen import FrozenSource
from vitreg.types import Grid, Layers, Query, Tower


def attention_maps(
    model: nn.Module, images: Tensor, *, layers: Layers = "all", query: Query = "cls"
) -> list[Tensor]:
    """Return the query's attention over the patches, folded to the picture.

    Args:
        model: a Vision Transformer, or a module with one inside, in any mode, attached or not.
        images: as the Vision Transformer receives them, on its device, [b, c, height, width].
        layers: which blocks.
        query: whose attention: "cls", "mean" or "pool", see `vitreg.trace`; "all" for the whole matrix, which
            takes some hundred times as long and n times the memory: name few `layers`.

    Returns:
        One tensor a block, [b, h, rows, columns], in float32; of several tokens [b, h, m, rows, columns]. A
        row of attention sums to 1 less what falls on the tokens that are no patches. In differential
        attention each head has two maps, of which the model subtracts the second.

    The pass ends at the deepest block that is read. Of a model whose parts are moved or gathered as it runs
    (CPU offload, FSDP) what is behind that stays as it is until the next pass.

    Raises:
        ArgumentError: no batch of images, an unknown query, or `layers` that select nothing.
        UnsupportedModelError: the attention cannot be read, or the patches form no known grid.
    """
    tower = find_tower(model)
    check_images(images)
    check_query(query)
    indices = blocks_read("attn_probs", layers, query, tower)
    reader = Reader(tower, {("attn_probs", query): indices}, stop=True)
    try:
        with evaluating(tower.module):
            run_tower(reader, images, autocast_now(images))
        values = reader.of(("attn_probs", query), indices)
    finally:
        reader.remove()
    return [
        value.unflatten(-1, picture_grid(tower, index, query, images, value.shape[-1]))
        for index, value in zip(indices, values, strict=True)
    ]


def attention_drift(
    model: nn.Module,
    source: nn.Module | FrozenSource,
    images: Tensor,
    *,
    layers: Layers = "all",
    query: Query = "cls",
) -> Tensor:
    r"""Return which share of each block's attention looks elsewhere than in the source, [l].

    $$\frac12 \sum_p \lvert \hat a_T - \hat a_S \rvert, \qquad \hat a = a \Big/ \sum_p a_p$$

    The total variation distance of the two attentions over the patches, mean over heads and images: 0 where
    both look alike, 1 where they look at different patches altogether.

    Args:
        model: the model that was trained.
        source: the pre-trained one, with the same blocks, heads and patches; also `attachment.source`.
        images: as both receive them, on their device, [b, c, height, width].
        layers: which blocks.
        query: whose attention, see `attention_maps`.

    Raises:
        ArgumentError, UnsupportedModelError: see `attention_maps`.
        MismatchError: model and source have other blocks, heads or patches.
    """
    both = (model, source.tower.module if isinstance(source, FrozenSource) else source)
    depths = [len(find_tower(one).blocks) for one in both]
    if depths[0] != depths[1]:
        raise MismatchError(
            f"Expected model and source with the same blocks, found {depths[0]} in the model and {depths[1]} "
            "in the source. Compare attention_maps of the blocks that belong together."
        )
    ours, theirs = (attention_maps(one, images, layers=layers, query=query) for one in both)
    shapes = [[list(value.shape) for value in values] for values in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise MismatchError(
            "Expected model and source with the same heads and patches, found attention of "
            f"{_in_words(shapes[0])} in the model and {_in_words(shapes[1])} in the source. Give both "
            "the same architecture and picture size."
        )
    distances = [
        (_normalise(one) - _normalise(other)).abs().sum(-1).mean() / 2
        for one, other in zip(ours, theirs, strict=True)
    ]
    return torch.stack(distances)


def object_share(
    model: nn.Module,
    images: Tensor,
    objects: Tensor,
    *,
    layers: Layers = "all",
    query: Query = "cls",
) -> Tensor:
    """Return which share of the attention over the patches lies on the object, [l, b].

    The attention is the mean over heads. A patch that an object covers in part counts in part.

    Args:
        model: a Vision Transformer, or a module with one inside.
        images: as it receives them, on its device, [b, c, height, width].
        objects: bool masks, [b, height, width], or boxes (left, top, right, bottom) in pixels, [b, 4].
        layers: which blocks.
        query: whose attention, see `attention_maps`.

    Raises:
        ArgumentError: masks or boxes of another shape or type, or a picture without any of its object.
        UnsupportedModelError: see `attention_maps`.
    """
    check_images(images)
    masks = object_masks(
        objects, images, covered_size(find_tower(model), (images.shape[-2], images.shape[-1]))
    )
    empty = (~masks.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise ArgumentError(f"Pictures {empty} hold none of their object. Leave them out, or mend the masks.")
    maps = attention_maps(model, images, layers=layers, query=query)
    shares = []
    for value in maps:
        coverage = patch_coverage(masks, (value.shape[-2], value.shape[-1]))
        shares.append(attention_share(value.mean(1).flatten(1), coverage))
    return torch.stack(shares)


def check_images(images: object) -> None:
    """Raise `ArgumentError` unless `images` is a batch of images [b, c, height, width]."""
    if (
        not isinstance(images, Tensor)
        or images.dim() != 4
        or not images.is_floating_point()
        or not images.numel()
    ):
        raise ArgumentError(
            "Expected a batch of images as the model receives them, [b, c, height, width], found "
            f"{in_words(images)}."
        )


def picture_grid(tower: Tower, index: int, query: Query, images: Tensor, num_patches: int) -> Grid:
    """Return the patch grid of block `index` for `images`.

    Raises:
        UnsupportedModelError: it is not known, or the attention is over other tokens than the patches.
    """
    block = tower.pool if query == "pool" and tower.pool is not None else tower.blocks[index]
    height, width = images.shape[-2:]
    grid = block_grid(tower, block, (height, width))
    if grid is None or grid[0] * grid[1] != num_patches:
        known = "no patch grid" if grid is None else f"{grid[0]}×{grid[1]} patches"
        raise UnsupportedModelError(
            f"Expected attention over the patches of a known grid; found {num_patches} values and {known} in "
            f"block {block.name!r} of {type(tower.module).__name__}. Use vitreg.trace for the plain values."
        )
    return grid


def _normalise(maps: Tensor) -> Tensor:
    values = maps.flatten(-2)
    return values / values.sum(-1, keepdim=True)


def _in_words(shapes: list[list[int]]) -> str:
    kinds = " and ".join(str(list(kind)) for kind in dict.fromkeys(tuple(shape) for shape in shapes))
    return f"{len(shapes)} blocks of {kinds}"
