"""Into how many patches a picture is divided."""

from __future__ import annotations

from vitreg.types import Block, Grid, Tower


def grid_of(tower: Tower, size: tuple[int, int]) -> Grid | None:
    """Return the patch grid of a picture of `size` (height, width) pixels, or None where it is not known."""
    if tower.patch_size is None:
        return tower.grid
    return size[0] // tower.patch_size[0], size[1] // tower.patch_size[1]


def block_grid(tower: Tower, block: Block, size: tuple[int, int]) -> Grid | None:
    """Return the patch grid that `block` sees of a picture of `size`, or None where it is not known.

    A block has a grid of its own where the patches are pooled on the way.
    """
    return block.grid if block.grid != tower.grid else grid_of(tower, size)


def covered_size(tower: Tower, size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width in pixels that the patches of a picture of `size` cover, from the top left.

    What is left over where a side is no multiple of the patch's is in no patch.
    """
    if tower.covered is not None:
        return tower.covered
    grid = grid_of(tower, size)
    if tower.patch_size is None or grid is None:
        return size
    return min(size[0], grid[0] * tower.patch_size[0]), min(size[1], grid[1] * tower.patch_size[1])
