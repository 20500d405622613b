"""Pictures with what each model's attention takes for the object, a line for each model (figure 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vitreg.plot.pictures import Panel, draw_grid
from vitreg.plot.style import png

TINT = (1.0, 0.78, 0.0)
"""Laid over the mask: a yellow that is light in grey too, before a ground without colour."""

STRENGTH = 0.45
"""Of the tint; the rest is the picture."""

GROUND = 0.33
"""How light the picture is drawn beside the mask: at most as light as the tint makes black."""


def tint(picture: Tensor, mask: Tensor) -> Tensor:
    """Return uint8 [3, size, size] as float [size, size, 3], yellow on the bool `mask`, dark grey beside it.

    In grey too, every pixel of the mask is lighter than every pixel beside it.
    """
    image = picture.permute(1, 2, 0).float() / 255
    grey = image @ torch.tensor([0.299, 0.587, 0.114])  # as eyes weigh red, green and blue
    ground = (GROUND * grey)[:, :, None].expand_as(image)
    return torch.where(mask[:, :, None], image + STRENGTH * (torch.tensor(TINT) - image), ground)


def draw_segmentation(
    pictures: Tensor,
    truth: Tensor,
    masks: Mapping[str, Tensor],
    scores: Mapping[str, Sequence[float]],
    *,
    caption: str = "",
) -> bytes:
    """Return a PNG file: a column for each picture, the first line the pictures, then a line for each model.

    `pictures` is uint8 [b, 3, size, size], `truth` and each of `masks` bool [b, size, size], each of `scores`
    one Jaccard index in [0, 1] for each picture, printed above it. The true outline is drawn on all of them.

    Raises:
        ValueError: The numbers of pictures, masks and scores differ.
    """
    counts = {len(pictures), len(truth), *map(len, masks.values()), *map(len, scores.values())}
    if len(counts) > 1 or masks.keys() != scores.keys():
        raise ValueError(
            f"expected masks and scores of {len(pictures)} pictures, "
            f"found {len(truth)} outlines, {_lengths(masks)} masks and {_lengths(scores)} scores"
        )
    outlines, images = list(truth), pictures.permute(0, 2, 3, 1).float() / 255
    lines = [("picture", [Panel(image, outline=one) for image, one in zip(images, outlines, strict=True)])]
    for name, found in masks.items():
        titles = [f"{score:.2f}" for score in scores[name]]
        lines.append((name, list(map(Panel, map(tint, pictures, found), titles, outlines))))
    return png(draw_grid(lines, caption=caption))


def _lengths(values: Mapping[str, Sequence[float] | Tensor]) -> dict[str, int]:
    return {name: len(value) for name, value in values.items()}
