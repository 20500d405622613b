"""Pictures with what each model's attention takes for the object, a line for each model (figure 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from vitreg.plot.pictures import outline
from vitreg.plot.style import plain
from vitreg.train.basics.figures import png

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
    one Jaccard index in [0, 1] for each picture, printed on it. The true outline is drawn on all of them.

    Raises:
        ValueError: The numbers of pictures, masks and scores differ.
    """
    counts = {len(pictures), len(truth), *map(len, masks.values()), *map(len, scores.values())}
    if len(counts) > 1 or masks.keys() != scores.keys():
        raise ValueError(
            f"expected masks and scores of {len(pictures)} pictures, "
            f"found {len(truth)} outlines, {_lengths(masks)} masks and {_lengths(scores)} scores"
        )
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    size = (1.6 * len(pictures) + 0.3, 1.6 * (1 + len(masks)) + 0.3)
    figure = Figure(figsize=size, dpi=150, layout=layout)
    grid = figure.subplots(1 + len(masks), len(pictures), squeeze=False)
    for column, picture in enumerate(pictures):
        grid[0][column].imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
        for line, (name, found) in enumerate(masks.items(), start=1):
            axes = grid[line][column]
            axes.imshow(tint(picture, found[column]).numpy(), interpolation="nearest")
            _print_score(axes, scores[name][column])
        for axes in grid[:, column]:
            outline(axes, truth[column])
    for axes, title in zip(grid[:, 0], ["picture", *masks], strict=True):
        axes.set_ylabel(plain(title), fontsize=9)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    if caption:
        figure.supxlabel(plain(caption), fontsize=8)
    return png(figure)


def _print_score(axes: Axes, score: float) -> None:
    box = {"facecolor": "black", "edgecolor": "none", "pad": 1.5}
    axes.text(0.03, 0.03, f"{score:.2f}", transform=axes.transAxes, color="white", fontsize=9, bbox=box)


def _lengths(values: Mapping[str, Sequence[float] | Tensor]) -> dict[str, int]:
    return {name: len(value) for name, value in values.items()}
