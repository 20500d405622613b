"""The share of attention under a mask, and masks on the patch grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vitreg.errors import ArgumentError, in_words
from vitreg.functional.precision import without_autocast


def attention_share(attention: Tensor, mask: Tensor) -> Tensor:
    r"""Return each image's share of attention that falls on `mask`.

    $$\lambda_\mathrm{attn} = \frac{\sum_{p} m_p\, a_p}{\sum_{p} a_p}$$

    Args:
        attention: [CLS] attention over the patches, mean over heads, [b, p].
        mask: how far each patch counts, between 0 and 1: [p], or [b, p] for a mask an image.

    Returns:
        [b], in float32, between 0 and 1.

    Source: Chen et al. 2022 (CVPR), "TransMix: Attend to Mix for Vision Transformers".
    """
    with without_autocast(attention):
        a = attention.float()
        return (a * mask.to(a)).sum(-1) / a.sum(-1)


def box_on_grid(height: int, width: int, box: tuple[int, int, int, int], grid: tuple[int, int]) -> Tensor:
    """Return the mask of a pixel box (top, bottom, left, right), resized nearest to the patch grid, [p]."""
    mask = torch.zeros(1, 1, height, width)
    top, bottom, left, right = box
    mask[..., top:bottom, left:right] = 1
    return F.interpolate(mask, size=grid, mode="nearest").flatten()


def object_masks(objects: object, images: Tensor, seen: tuple[int, int]) -> Tensor:
    """Return bool masks [b, height, width], cropped to what patches cover of a picture.

    Args:
        objects: bool masks [b, height, width], or boxes (left, top, right, bottom) in pixels, [b, 4]; one
            without any extent is empty.
        images: the pictures, [b, c, height, width].
        seen: the height and width that patches cover.

    Raises:
        ArgumentError: masks or boxes of another shape or type.
    """
    b, height, width = images.shape[0], images.shape[-2], images.shape[-1]
    if isinstance(objects, Tensor) and objects.dtype == torch.bool and objects.shape == (b, height, width):
        masks = objects.to(images.device)
    elif isinstance(objects, Tensor) and objects.dtype != torch.bool and objects.shape == (b, 4):
        left, top, right, bottom = objects.to(images.device)[:, :, None, None].unbind(1)
        rows = torch.arange(height, device=images.device)[:, None] + 0.5
        columns = torch.arange(width, device=images.device)[None] + 0.5
        masks = (rows > top) & (rows < bottom) & (columns > left) & (columns < right)
    else:
        raise ArgumentError(
            f"Expected bool masks {[b, height, width]} or boxes {[b, 4]} in pixels, found "
            f"{in_words(objects)}."
        )
    return masks[:, : seen[0], : seen[1]]


def patch_coverage(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return how much of each patch a mask covers: [b, p] in [0, 1] from bool masks [b, height, width]."""
    return F.adaptive_avg_pool2d(masks[:, None].float(), grid).flatten(1)
