"""Where the [CLS] token looks: how much of its attention is on the object, and how well the two overlap."""

from __future__ import annotations

import torch
from torch import Tensor

from vitreg import functional

MASS = 0.6
"""Of the attention, held by the patches that count as attended; DINO's protocol."""


def patch_coverage(masks: Tensor, num_patches: int) -> Tensor:
    """Return how much of each patch the object covers: [b, p] in [0, 1] from bool masks [b, height, width].

    Raises:
        ValueError: The patches do not form a square.
    """
    side = round(num_patches**0.5)
    if side**2 != num_patches:
        raise ValueError(f"expected a square grid of patches, found {num_patches}")
    return functional.patch_coverage(masks, (side, side))


def object_share(attention: Tensor, coverage: Tensor) -> Tensor:
    """Return the share of the [CLS] attention [b, h, p] that lies on the object, one number a picture: [b].

    It is a share of what falls on the patches, without what falls on the [CLS] token itself.
    """
    return functional.attention_share(attention.float().mean(1), coverage)


def attended_patches(attention: Tensor, mass: float = MASS) -> Tensor:
    """Return the smallest set of patches that holds `mass` of the attention [..., p]: bool [..., p]."""
    share = attention.double() / attention.double().sum(-1, keepdim=True)
    ordered, places = share.sort(dim=-1, descending=True, stable=True)
    is_needed = ordered.cumsum(-1) - ordered < mass - 1e-9  # the patches before it do not hold the mass yet
    return torch.zeros_like(is_needed).scatter(-1, places, is_needed)


def best_head_jaccard(attention: Tensor, coverage: Tensor, mass: float = MASS) -> Tensor:
    """Return the Jaccard index of attended patches and object, of the best head of each picture: [b].

    `attention` is [b, h, p]; a patch belongs to the object when at least half of it does.

    Source: Caron et al. 2021 (arXiv 2104.14294): 60 % of the mass, the best head per picture.
    """
    # NOTE[DIFF]: DINO compares pixels, with the attention enlarged by nearest; here it is patches, as fine as
    # the attention is. The paper's threshold is unknown.
    chosen, inside = attended_patches(attention, mass), (coverage >= 0.5)[:, None]
    intersection = (chosen & inside).sum(-1)
    union = (chosen | inside).sum(-1)
    return (intersection / union).amax(1)
