"""Whether what was read belongs to all images, and its tokens to all patches in their order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vitreg.errors import MismatchError
from vitreg.extractors import extractors
from vitreg.grids import block_grid
from vitreg.reader import ForwardPass
from vitreg.types import Block

REMEDY = (
    "Token dropping (patch_drop_rate, patch_dropout, mask_ratio) and whatever else merges, masks or shuffles "
    "tokens must be off, and tokens that were added, such as prompts, have to be known to the tower as "
    "prefix tokens."
)
_NUM_IMAGES, _NUM_TOKENS = 2, 8
"""How many images, and tokens of each, are looked at for the order of the tokens."""


def check_tokens(extractor: str, block: Block, one: ForwardPass, shape: Sequence[int]) -> None:
    """Raise `MismatchError` unless a value of `block` is of all images of the pass and of all their patches.

    Args:
        extractor: what was read; one that knows no patches is not looked at.
        block: what it was read from.
        one: the pass.
        shape: of the value: attention [b, h, p] or [b, h, m, p], or tokens [b, n, d].
    """
    known = extractors[extractor]
    if known.resample is None or one.images is None or len(shape) < 3:
        return
    if shape[0] != len(one.images):
        raise MismatchError(
            f"Expected {extractor} of {block.name!r} for {len(one.images)} images, found {shape[0]}: the "
            "block ran on a part of the batch, as some stochastic depth does. Set its rate (drop_path_rate, "
            "sample_drop_ratio) to 0, or to one at which it drops branches instead."
        )
    height, width = one.images.shape[-2:]
    grid = block_grid(one.tower, block, (height, width))
    if grid is None or (not known.of_attention and _sees_one_token(block)):
        return
    found = shape[-1] if known.of_attention else shape[1] - known.has_prefix * block.num_prefix_tokens
    if found != grid[0] * grid[1]:
        raise MismatchError(
            f"Expected values of all patches, found {extractor} of {block.name!r} of shape "
            f"{list(shape)}, {found} patches, where the picture has {grid[0]}×{grid[1]} patches. "
            f"{REMEDY}"
        )


def check_order(ours: Tensor | None, theirs: Tensor | None, *, is_random: bool) -> None:
    """Raise `MismatchError` if the model's tokens are the source's in another order.

    Some tokens of the model are compared with those of the source, as they enter a block. Training moves a
    token little by little; what is nearest to it by far is the same patch. What shuffles patches before
    their position embeddings, or pictures, is seen while the model's stem is as good as the source's.

    Args:
        ours: the model's tokens, [b, n, d]; None or another shape where they were not seen.
        theirs: the source's, of the last images of the batch.
        is_random: whether the source draws random numbers, which may decide on their order: then what is
            nearest, by however little, has to be the same patch for most of them.
    """
    if ours is None or theirs is None or ours.dim() != 3 or ours.shape[1:] != theirs.shape[1:]:
        return
    if ours.is_meta or len(theirs) > len(ours):
        return
    ours, theirs = ours[-len(theirs) :].float(), theirs.float()
    chosen = torch.linspace(0, ours.shape[1] - 1, _NUM_TOKENS, device=ours.device).long().unique()
    distances = torch.cdist(ours[-_NUM_IMAGES:, chosen], theirs[-_NUM_IMAGES:])  # [b, tokens, n]
    own, nearest = distances[:, torch.arange(len(chosen)), chosen], distances.amin(2)
    by_far = 1.0 if is_random else 3.0
    is_near = (
        nearest < ours[-_NUM_IMAGES:, chosen].norm(dim=2) / 2
    ) | is_random  # else a small one is near all
    elsewhere = (is_near & (own > by_far * nearest + 1e-3 * own.mean())).float().mean() > 0.5
    if elsewhere | _are_found_elsewhere(ours, theirs, chosen):
        raise MismatchError(
            "Expected the tokens of model and source in one order, found that most of the model's are those "
            f"of another patch in the source, or of another picture. {REMEDY}"
        )


def _are_found_elsewhere(ours: Tensor, theirs: Tensor, chosen: Tensor) -> Tensor:
    """Return whether most of the `chosen` tokens are, as good as exactly, others of the source.

    They may be of any picture of the batch; and apart from what all pictures have in common at their places,
    which position embeddings that were added to shuffled patches are. A model whose tokens are not the
    source's to a few percent, as after some training, or of other weights, passes.
    """
    found = []
    for tokens, known in ((ours, theirs), (ours - ours.mean(0), theirs - theirs.mean(0))):
        some, same = (t[-_NUM_IMAGES:, chosen].flatten(0, 1) for t in (tokens, known))
        own, nearest, size = (
            (some - same).norm(dim=1),
            torch.cdist(some, known.flatten(0, 1)).amin(1),
            some.norm(dim=1),
        )
        is_elsewhere = (own > 0.01 * size) & (nearest < 0.05 * torch.minimum(own, size))  # no rounding
        says_something = size > 1e-4 * ours.norm(dim=2).mean()  # others are alike in all pictures
        found.append(is_elsewhere[says_something].float().mean() > 0.5)  # of none it is no number
    return found[0] | found[1]


def _sees_one_token(block: Block) -> bool:
    """Return whether the block updates its class token only, so that its output may be of that token."""
    return block.reading is not None and "mean" not in block.reading.queries
