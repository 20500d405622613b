"""Whether each token stays that of its patch, whatever else is in the picture."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from vitreg.errors import MismatchError
from vitreg.functional.precision import Autocast, autocast_as
from vitreg.grids import grid_of
from vitreg.hooks import Hooks
from vitreg.reader import ReadingComplete, as_called
from vitreg.types import Arguments, Tap, Tower


def check_patches_stay(tower: Tower, images: Tensor, autocast: Autocast | None, more: Arguments) -> None:
    """Raise `MismatchError` if the content of a picture decides which token is which patch.

    A tower that sorts, merges or drops tokens by what is in them would be compared with a model that, once it
    is trained, does it otherwise. So it runs up to its first block on two pictures and on one that has the
    left half of the first beside the right half of the second: each token of this one has to be near the
    token of its place in one of the two, rather than near one of another place.

    Args:
        tower: the source's.
        images: the batch [b, c, height, width] that it has run on.
        autocast: that of this run.
        more: what it was called with beside the images.
    """
    width = images.shape[-1] // 2
    one, other = images[-1:], images[:1] if len(images) > 1 else images.flip(-1)
    three = torch.cat([one, other, torch.cat([one[..., :width], other[..., width:]], -1)])
    grid = grid_of(tower, (images.shape[-2], images.shape[-1]))
    if grid is None:
        return
    shape = 3, tower.num_prefix_tokens + grid[0] * grid[1]
    entering = _entering(tower, three, autocast, more)
    values = [
        v if tower.batch_first else v.transpose(0, 1) for v in entering if v.dim() == 3 and not v.is_meta
    ]
    tokens = next((value for value in values if value.shape[:2] == shape), None)
    if tokens is None:  # another number is an error of its own
        return
    first, second, mixed = tokens.float().unbind()
    half = len(mixed) // 2
    elsewhere = [
        _are_elsewhere(mixed[part], part.start, first, second) for part in (slice(0, half), slice(half, None))
    ]
    if bool(torch.cat(elsewhere).float().mean() > 0.1):
        raise MismatchError(
            f"Expected each token of {type(tower.module).__name__} to be of the same patch in every picture, "
            "found that the picture decides: its patches are sorted, merged or dropped by their content. "
            "Switch off what does that, in the model and in its source."
        )


def _are_elsewhere(tokens: Tensor, place: int, first: Tensor, second: Tensor) -> Tensor:
    """Return which of the tokens [n, d] that begin at `place` are far nearer to one of another place."""
    distances = torch.minimum(torch.cdist(tokens, first), torch.cdist(tokens, second))
    return distances.diagonal(place) > 3 * distances.amin(1) + 1e-3 * distances.mean()


def _entering(tower: Tower, images: Tensor, autocast: Autocast | None, more: Arguments) -> list[Tensor]:
    """Return the tensors that enter the first block, or nothing where that cannot be seen."""
    found: list[Tensor] = []

    def stop(delivered: Any) -> None:
        args, kwargs = delivered
        found.extend(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        raise ReadingComplete

    args, kwargs = as_called(more)
    hooks = Hooks([(Tap(tower.blocks[0].module, "input"), stop)] if tower.blocks else [])
    try:
        with suppress(Exception), torch.no_grad(), autocast_as(images, autocast):  # it needs the whole batch
            tower.module(images, *args, **kwargs)
    finally:
        hooks.remove()
    return found
