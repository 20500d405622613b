"""TransMix's share of attention under a box."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vitreg.functional.precision import without_autocast


def attention_share(attention: Tensor, mask: Tensor) -> Tensor:
    r"""Return each image's share of attention that falls on `mask`.

    $$\lambda_\mathrm{attn} = \frac{\sum_{p} m_p\, a_p}{\sum_{p} a_p}$$

    Args:
        attention: [CLS] attention over the patches, mean over heads, [b, p].
        mask: 1 on the patches that count, else 0, [p].

    Returns:
        [b], in float32, between 0 and 1.

    Source: Chen et al. 2022 (CVPR), "TransMix: Attend to Mix for Vision Transformers", Eq. (4).
    """
    with without_autocast(attention):
        a = attention.float()
        return (a @ mask.to(a)) / a.sum(-1)


def box_on_grid(height: int, width: int, box: tuple[int, int, int, int], grid: tuple[int, int]) -> Tensor:
    """Return the mask of a pixel box (top, bottom, left, right), resized nearest to the patch grid, [p]."""
    mask = torch.zeros(1, 1, height, width)
    top, bottom, left, right = box
    mask[..., top:bottom, left:right] = 1
    return F.interpolate(mask, size=grid, mode="nearest").flatten()
