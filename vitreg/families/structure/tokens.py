"""Which token is which patch: found out by changing parts of a picture and looking at what follows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitreg.families.structure.pictures import draw_pictures, like_pictures, patch_sizes
from vitreg.families.structure.trial import CannotTry, Refused, first_tokens

_CHANGED = 1e-3
"""The smallest change of a token that counts, beside the largest one."""


@dataclass(frozen=True)
class Tokens:
    """The tokens that the first block receives.

    Attributes:
        batch_first: whether they are [b, n, d] rather than [n, b, d].
        width: d.
        num_prefix: how many stand before the patches.
        has_class_token: whether the first is a class token.
        patch: a patch's height and width in pixels.
        grid: patches, vertically and horizontally.
        any_size: whether pictures of other sizes are taken.
    """

    batch_first: bool
    width: int
    num_prefix: int
    has_class_token: bool
    patch: tuple[int, int]
    grid: tuple[int, int]
    any_size: bool


def look_at_tokens(
    twin: nn.Module, entry: str, chain: set[str], shape: tuple[int, int, int], others: Sequence[str] = ()
) -> Tokens:
    """Return which token is which, from runs of `twin` on pictures of `shape` up to its first block.

    Raises:
        Refused: the patches are not behind the prefix tokens, row by row, in eval and in training mode.
    """
    images = draw_pictures(shape, like_pictures(twin), 3)
    tokens = first_tokens(twin, entry, images, training=False, others=others)
    batch_first, num_prefix, patch, grid = _order(twin, entry, chain, images, tokens, False)
    try:
        in_training = first_tokens(twin, entry, images, training=True)
        if in_training.shape != tokens.shape:
            raise Refused(f"its tokens {list(tokens.shape)} become {list(in_training.shape)}")
        _order(twin, entry, chain, images, in_training, True)
    except CannotTry:
        raise
    except Refused as error:
        raise Refused(f"in training mode, {error}; switch off what changes its tokens") from error
    return Tokens(
        batch_first,
        tokens.shape[-1],
        num_prefix,
        num_prefix > 0 and _has_class_token(twin, entry, chain, images, batch_first, num_prefix),
        patch,
        grid,
        _takes_other_sizes(twin, entry, shape, patch, num_prefix),
    )


def _order(
    twin: nn.Module, entry: str, chain: set[str], images: Tensor, tokens: Tensor, training: bool
) -> tuple[bool, int, tuple[int, int], tuple[int, int]]:
    """Return whether images come first, the number of prefix tokens, a patch's size and the grid.

    All patches are numbered; run after run those are changed whose number has a certain bit, and each token's
    changes have to spell the number of its patch.
    """
    if (tokens.shape[0] == len(images)) == (tokens.shape[1] == len(images)):
        raise Refused(f"its tokens have the shape {list(tokens.shape)} for {len(images)} pictures")
    batch_first = tokens.shape[0] == len(images)
    every = _changing_tokens(twin, entry, images, tokens, torch.ones_like(images[:1]), batch_first, training)
    num_patches, num_prefix = int(every.sum()), int((~every).sum())
    if bool(every[:num_prefix].any()):
        raise Refused("tokens that are no patches do not stand before them")
    patch, grid = _grid(twin, chain, images, num_patches)
    number = torch.arange(num_patches, device=images.device).view(grid)
    spelled = torch.zeros(num_patches, dtype=torch.long, device=images.device)
    for bit in range(max(1, (num_patches - 1).bit_length())):
        chosen = (number >> bit) & 1
        pixels = chosen.repeat_interleave(patch[0], 0).repeat_interleave(patch[1], 1)
        mask = torch.zeros_like(images[:1])
        mask[..., : pixels.shape[0], : pixels.shape[1]] = pixels.to(mask)
        changed = _changing_tokens(twin, entry, images, tokens, mask, batch_first, training)
        spelled += changed[num_prefix:].long() << bit
    if not torch.equal(spelled, number.flatten()):
        raise Refused("its tokens are not the picture's patches row by row (shuffled, merged or overlapping)")
    return batch_first, num_prefix, patch, grid


def _changing_tokens(
    twin: nn.Module,
    entry: str,
    images: Tensor,
    tokens: Tensor,
    mask: Tensor,
    batch_first: bool,
    training: bool,
) -> Tensor:
    """Return which tokens of the first picture change, [n], where the pixels in `mask` [1, c, h, w] do."""
    other = images + mask * draw_pictures(tuple(images.shape[1:]), images, len(images)).roll(1, 0)
    after = first_tokens(twin, entry, other, training=training)
    if after.shape != tokens.shape:
        raise Refused("the number of its tokens depends on what is in the picture")
    return _differs(tokens, after, batch_first)


def _differs(before: Tensor, after: Tensor, batch_first: bool) -> Tensor:
    difference = (after - before).abs().float().amax(-1)
    largest = difference[0] if batch_first else difference[:, 0]
    return largest > _CHANGED * max(float(largest.max()), 1e-12)


def _grid(
    twin: nn.Module, chain: set[str], images: Tensor, num_patches: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    height, width = images.shape[-2:]
    side = math.isqrt(height * width // max(num_patches, 1))
    for p, q in (*patch_sizes(twin, chain), (side, side)):
        if p and q and (height // p) * (width // q) == num_patches:
            return (p, q), (height // p, width // q)
    raise Refused(f"{num_patches} of its tokens depend on the picture of {height}×{width}, which is no grid")


def _has_class_token(
    twin: nn.Module, entry: str, chain: set[str], images: Tensor, batch_first: bool, num_prefix: int
) -> bool:
    """Return whether a parameter that is called a class token moves the first token and no patch."""
    tokens = first_tokens(twin, entry, images, training=False)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in twin.named_parameters():
        if name.rpartition(".")[0] in chain or not re.search("cls|class", name.rpartition(".")[2].lower()):
            continue
        with torch.no_grad():
            before = parameter.clone()
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter))
            after = first_tokens(twin, entry, images, training=False)
            parameter.copy_(before)
        if after.shape == tokens.shape:
            moved = (after - tokens).abs().float().amax(-1)
            moved = moved[0] if batch_first else moved[:, 0]
            if bool(moved[0] > 0) and not bool((moved[num_prefix:] > 0).any()):
                return True
    return False


def _takes_other_sizes(
    twin: nn.Module, entry: str, shape: tuple[int, int, int], patch: tuple[int, int], num_prefix: int
) -> bool:
    """Return whether pictures with a row of patches more or less, and columns, become as many more tokens."""
    like = like_pictures(twin)
    for more in (2, -2):
        height, width = shape[1] + more * patch[0], shape[2] + more * patch[1]
        if min(height, width) <= 0:
            continue
        images = draw_pictures((shape[0], height, width), like, 3)
        try:
            tokens = first_tokens(twin, entry, images, training=False)
        except Refused:
            continue
        if tokens.numel() // (3 * tokens.shape[-1]) == num_prefix + (height // patch[0]) * (
            width // patch[1]
        ):
            return True
    return False
