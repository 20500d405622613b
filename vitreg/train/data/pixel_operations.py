"""Pillow's operations on a batch of pictures, each with numbers of its own, to the last level where possible.

No library has them a picture: torchvision's and kornia's RandAugment draw once a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Compute = Callable[[Tensor, Tensor], Tensor]
"""From uint8 [b, 3, s, s] and k float32 numbers for each picture, [b, k], to uint8 [b, 3, s, s]."""


def _warped(
    pictures: Tensor,
    numbers: Tensor,
    *,
    reach: tuple[int, ...],
    weights: Callable[[Tensor], list[Tensor]],
) -> Tensor:
    """Sample by Pillow's inverse matrix `numbers[:, :6]`; beyond the picture is the colour `numbers[:, 6:]`.

    Interpolated along rows, then along columns, between the pixel before the place, the first of `reach`, and
    the others, whose `weights` multiply the differences from it: Pillow drops the fraction of a level, so
    that flat areas must stay exact. Beyond the border are the border's pixels.
    """
    height, width = pictures.shape[2:]
    column = torch.arange(width, device=pictures.device) + 0.5
    row = torch.arange(height, device=pictures.device)[:, None] + 0.5
    a, b, c, d, e, f = numbers[:, :6, None, None].unbind(1)
    x, y = a * column + b * row + c, d * column + e * row + f  # [b, h, w]
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    left, top = (x - 0.5).floor(), (y - 0.5).floor()
    beside = [weight[:, None] for weight in weights(x - 0.5 - left)]
    below = [weight[:, None] for weight in weights(y - 0.5 - top)]
    levels = pictures.flatten(2).float()

    def at(right: int, down: int) -> Tensor:
        place = (top + down).clamp(0, height - 1) * width + (left + right).clamp(0, width - 1)
        place = place.long().flatten(1)[:, None].expand(-1, 3, -1)
        return levels.gather(2, place).view_as(pictures)

    def along(pixel: Callable[[int], Tensor], parts: list[Tensor]) -> Tensor:
        value = first = pixel(reach[0])
        for place, part in zip(reach[1:], parts, strict=True):
            value = value.addcmul(pixel(place) - first, part)
        return value

    value = along(lambda down: along(lambda right: at(right, down), beside), below)
    return torch.where(outside[:, None], numbers[:, 6:, None, None], value.clamp(0, 255)).to(torch.uint8)


def _linear(part: Tensor) -> list[Tensor]:
    """Return the weight of the pixel after the place, `part` of a pixel behind the one before it."""
    return [part]


def _cubic(part: Tensor) -> list[Tensor]:
    """Return the weights of the other three pixels around the place; a = -1, as in Pillow's `transform`."""
    square, cube = part**2, part**3
    return [2 * square - cube - part, part + square - cube, cube - square]


bilinear = partial(_warped, weights=_linear, reach=(0, 1))
bicubic = partial(_warped, weights=_cubic, reach=(0, -1, 1, 2))
WARPS = {Image.Resampling.BILINEAR: bilinear, Image.Resampling.BICUBIC: bicubic}


def looked_up(pictures: Tensor, numbers: Tensor) -> Tensor:
    """Replace each level by the table's, `numbers` [b, 3 · 256]."""
    tables = numbers.to(torch.uint8).view(-1, 3, 256)
    return tables.gather(2, pictures.flatten(2).long()).view_as(pictures)


def auto_contrast(pictures: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel from its darkest to its brightest level to 0 … 255."""
    # Pillow computes in float64, which Apple's GPUs do not have: there a level may differ by one.
    dtype = torch.float32 if pictures.device.type == "mps" else torch.float64
    levels = torch.arange(256, device=pictures.device, dtype=dtype)
    darkest = pictures.amin((2, 3))[..., None].to(dtype)
    span = pictures.amax((2, 3))[..., None].to(dtype) - darkest
    scale = 255 / span.clamp(min=1)
    table = torch.where(span > 0, levels * scale + -darkest * scale, levels)
    return looked_up(pictures, table.clamp(0, 255).flatten(1))


def equalized(pictures: Tensor, _: Tensor) -> Tensor:
    """Spread each channel's levels so that each is about as frequent."""
    places = 256 * torch.arange(3 * len(pictures), device=pictures.device).view(-1, 3, 1)
    places = places + pictures.flatten(2)  # a histogram for each channel of each picture
    counts = torch.zeros(256 * 3 * len(pictures), dtype=torch.long, device=pictures.device)
    counts.scatter_add_(0, places.flatten(), torch.ones_like(places).flatten())
    counts = counts.view(-1, 3, 256)
    brightest = counts.gather(2, pictures.amax((2, 3))[..., None].long())
    step = (places.shape[2] - brightest) // 255
    table = (counts.cumsum(2) - counts + step // 2) // step.clamp(min=1)
    levels = torch.arange(256, device=pictures.device)
    return looked_up(pictures, torch.where(step > 0, table, levels).clamp(max=255).flatten(1))


def _blend(dull: Tensor, pictures: Tensor, numbers: Tensor) -> Tensor:
    """Go from `dull` (0) to `pictures` (1) and beyond, by the factor `numbers` [b, 1]."""
    return (dull + numbers[..., None, None] * (pictures - dull)).clamp(0, 255).to(torch.uint8)


def bright(pictures: Tensor, numbers: Tensor) -> Tensor:
    """Go from black by the factor `numbers` [b, 1]."""
    return _blend(torch.zeros_like(pictures), pictures, numbers)


def coloured(pictures: Tensor, numbers: Tensor) -> Tensor:
    """Go from grey by the factor `numbers` [b, 1]."""
    return _blend(_grey(pictures), pictures, numbers)


def desaturated(pictures: Tensor, numbers: Tensor) -> Tensor:
    """Go towards grey by the share `numbers` [b, 1]."""
    return coloured(pictures, (1 - numbers).clamp(0, 1))


def contrasted(pictures: Tensor, numbers: Tensor) -> Tensor:
    """Go from the mean grey level by the factor `numbers` [b, 1]."""
    count = pictures[0, 0].numel()
    mean = (2 * _grey(pictures).sum((1, 2, 3), keepdim=True) + count) // (2 * count)
    return _blend(mean, pictures, numbers)


def sharpened(pictures: Tensor, numbers: Tensor) -> Tensor:
    """Go from the smoothed picture by the factor `numbers` [b, 1]."""
    smooth = pictures.float()
    total = F.avg_pool2d(smooth, 3, 1, divisor_override=1) + 4 * smooth[..., 1:-1, 1:-1]
    smooth[..., 1:-1, 1:-1] = ((total + 6) / 13).floor()  # the border stays
    return _blend(smooth, pictures, numbers)


def _grey(pictures: Tensor) -> Tensor:
    """Return Pillow's conversion to grey, int32 [b, 1, h, w]."""
    red, green, blue = pictures.int().split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16


def blurred(pictures: Tensor, numbers: Tensor) -> Tensor:
    """Apply the box of `numbers` [b, 5] three times along rows, then along columns, in whole levels."""
    value = pictures.float()
    weights = numbers[..., None, None, None].unbind(1)
    for axis, border in ((3, (2, 2, 0, 0)), (2, (0, 0, 2, 2))):
        for _ in range(3):
            wide, side = F.pad(value, border, mode="replicate"), value.shape[axis]
            moved = (weight * wide.narrow(axis, k, side) for k, weight in enumerate(weights))
            value = sum(moved, torch.full_like(value, 0.5)).floor()
    return value.to(torch.uint8)
