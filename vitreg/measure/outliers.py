"""Tokens whose norm is far larger than their neighbours', and the attention that they draw."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitreg.errors import UnsupportedModelError
from vitreg.extractors import blocks_read, check_query
from vitreg.families import find_tower
from vitreg.functional import attention_share
from vitreg.functional.precision import autocast_now
from vitreg.measure.attention import check_images, picture_grid
from vitreg.penalties import check_positive
from vitreg.reader import Reader
from vitreg.sources.forward import evaluating, run_tower
from vitreg.types import Layers, Query


class Outliers(NamedTuple):
    """What `attention_outliers` found.

    Attributes:
        where: which patches are outliers, bool, [l, b, rows, columns].
        norms: the norms of all patches as the blocks return them, [l, b, rows, columns].
        attention: the share of the query's attention over the patches that outliers draw, mean over heads,
            [l, b].
    """

    where: Tensor
    norms: Tensor
    attention: Tensor


def attention_outliers(
    model: nn.Module, images: Tensor, *, layers: Layers = "all", query: Query = "cls", factor: float = 4.0
) -> Outliers:
    r"""Return which patches have a norm far above the others', and how much attention they draw.

    $$\lVert x_p \rVert > \text{factor} \cdot \mathrm{median}_q \lVert x_q \rVert$$

    over the patches of one picture in one block. Large models put what they need of the whole picture into a
    few patches of the background; registers take these over. Such patches mislead an attention map, and a
    guide that follows it.

    Args:
        model: a Vision Transformer, or a module with one inside.
        images: as it receives them, on its device, [b, c, height, width].
        layers: which blocks; those that have patches and the query.
        query: whose attention, "cls" or "mean".
        factor: how many times the median a norm has to be.

    Raises:
        ArgumentError: no batch of images, or a factor of no use.
        UnsupportedModelError: see `attention_maps`; or blocks of different patch grids at once.

    Source: Darcet et al. 2024 (ICLR), "Vision Transformers Need Registers", arXiv 2309.16588.
    """
    # NOTE[DIFF]: the paper draws the line at a norm of 150, read off a histogram of DINOv2; a multiple of the
    # median needs no histogram, and works in any model.
    tower = find_tower(model)
    check_images(images)
    check_query(query)
    check_positive(factor, name="factor")
    both = [set(blocks_read(name, layers, query, tower)) for name in ("patch_output", "attn_probs")]
    indices = tuple(sorted(both[0] & both[1]))
    if not indices:
        raise UnsupportedModelError(
            f"Outliers are read in blocks that update patches and have query={query!r}; layers={layers!r} of "
            f'{type(tower.module).__name__} has none. Use query="mean".'
        )
    keys = {("patch_output", query): indices, ("attn_probs", query): indices}
    reader = Reader(tower, keys, stop=True)
    try:
        with evaluating(tower.module):
            run_tower(reader, images, autocast_now(images))
        patches, attention = (reader.of(key, indices) for key in keys)
    finally:
        reader.remove()
    grids = {
        picture_grid(tower, i, query, images, a.shape[-1]) for i, a in zip(indices, attention, strict=True)
    }
    if len(grids) > 1:
        raise UnsupportedModelError(
            f"Outliers are returned for blocks of one patch grid, found {sorted(grids)}. Name layers of one."
        )
    norms = torch.stack([tokens.float().norm(dim=-1) for tokens in patches])  # [l, b, p]
    where = norms > factor * norms.median(-1, keepdim=True).values
    shares = [attention_share(a.mean(1), w) for a, w in zip(attention, where, strict=True)]
    (grid,) = grids
    return Outliers(where.unflatten(-1, grid), norms.unflatten(-1, grid), torch.stack(shares))
