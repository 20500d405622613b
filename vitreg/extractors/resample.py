"""Bring a reading to another patch grid, so that models of different patch or image size can be compared."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vitreg.errors import MismatchError
from vitreg.functional.precision import without_autocast
from vitreg.types import Block, Grid


def resample_row(value: Tensor, block: Block, from_grid: Grid, to_grid: Grid) -> Tensor:
    """Return one query's values over the patches, [b, h, p] or [b, h, m, p], on another grid, in float32."""
    _check(value.shape[-1], from_grid, block)
    maps = value.flatten(1, -2).unflatten(-1, from_grid)
    return _interpolate(maps, to_grid).flatten(-2).unflatten(1, value.shape[1:-1])


def resample_share(value: Tensor, block: Block, from_grid: Grid, to_grid: Grid) -> Tensor:
    """Return one query's shares of attention, [b, h, p], on another grid: each patch's by its area."""
    area = (from_grid[0] * from_grid[1]) / (to_grid[0] * to_grid[1])
    return resample_row(value, block, from_grid, to_grid) * area


def resample_tokens(value: Tensor, block: Block, from_grid: Grid, to_grid: Grid) -> Tensor:
    """Return tokens [b, n, d] on another grid; prefix tokens stay what they are."""
    prefix, patches = value[:, : block.num_prefix_tokens], value[:, block.num_prefix_tokens :]
    _check(patches.shape[1], from_grid, block)
    maps = rearrange(patches, "b (y x) d -> b d y x", y=from_grid[0], x=from_grid[1])
    resampled = rearrange(_interpolate(maps, to_grid), "b d y x -> b (y x) d")
    return torch.cat([prefix.float(), resampled], dim=1)


def resample_patches(value: Tensor, block: Block, from_grid: Grid, to_grid: Grid) -> Tensor:
    """Return patches [b, p, d] on another grid."""
    return resample_tokens(value, replace(block, num_prefix_tokens=0), from_grid, to_grid)


def _interpolate(maps: Tensor, grid: Grid) -> Tensor:
    """Return maps [b, c, height, width] resampled bilinearly, averaging where the grid gets coarser."""
    with without_autocast(maps):
        return F.interpolate(maps.float(), size=grid, mode="bilinear", align_corners=False, antialias=True)


def _check(num_patches: int, grid: Grid, block: Block) -> None:
    if num_patches != grid[0] * grid[1]:
        raise MismatchError(
            f"Expected {grid[0]}×{grid[1]} patches in block {block.name!r}, found {num_patches}. Token "
            "dropping (patch_drop_rate, patch_dropout) must be off for align='resample'."
        )
