"""Pictures with the [CLS] attention laid over them, a line for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO

import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor, nn
from torch.nn import functional as F

import vitreg
from engine.errors import RecipeError
from engine.evaluate import evaluate
from engine.task import Task

DARKNESS = 0.85
"""How dark a patch without any attention is drawn; one with the most is drawn as it is."""


def object_block(model: nn.Module, task: Task, *, accelerator: Accelerator) -> int:
    """Return the block whose attention is most on the objects; the last where nobody knows the objects."""
    if task.test_masks is None:
        return vitreg.describe(model).num_blocks - 1
    shares = evaluate(model, task, accelerator=accelerator, has_head=False)["object_share"]
    return int(max(range(len(shares)), key=shares.__getitem__))


@torch.no_grad()
def attention_maps(
    model: nn.Module, task: Task, indices: Sequence[int], block: int, *, accelerator: Accelerator
) -> Tensor:
    """Return the [CLS] attention of test pictures in one block, mean over heads, as [b, side, side].

    Raises:
        RecipeError: The model has no such block.
    """
    model.to(accelerator.device).eval()
    pictures = task.normalised(task.test[list(indices)].to(accelerator.device))
    try:
        with vitreg.trace(model, "attn_probs", layers=block) as trace:
            model(pictures)
    except vitreg.ArgumentError as error:
        raise RecipeError(f"--block {block}: {error}") from error
    mean = trace["attn_probs"][0].mean(1)
    side = round(mean.shape[-1] ** 0.5)
    return mean.view(-1, side, side).cpu()


def lit(picture: Tensor, attention: Tensor) -> Tensor:
    """Return uint8 [3, size, size] as float [size, size, 3], dark where `attention` [side, side] is low."""
    image = picture.permute(1, 2, 0).float() / 255
    scaled = (attention / attention.max())[None, None]
    light = F.interpolate(scaled, image.shape[:2], mode="bilinear", align_corners=False)[0, 0, :, :, None]
    return (image * (1 - DARKNESS * (1 - light))).clamp(0, 1)


def draw_overlays(pictures: Tensor, maps: Mapping[str, Tensor], *, block: int) -> bytes:
    """Return a PNG file: a column for each picture, lit where each model looks, a line for each model.

    `pictures` is uint8 [b, 3, size, size], each of `maps` [b, side, side]. A map is enlarged smoothly and
    scaled by its own maximum, so what is compared between models is the place, not the amount.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    size = (1.6 * len(pictures) + 0.3, 1.6 * (1 + len(maps)) + 0.3)
    figure = Figure(figsize=size, dpi=120, layout=layout)
    grid = figure.subplots(1 + len(maps), len(pictures), squeeze=False)
    for column, picture in enumerate(pictures):
        grid[0][column].imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
        for line, attention in enumerate(maps.values()):
            grid[line + 1][column].imshow(lit(picture, attention[column]).numpy(), interpolation="nearest")
    for axes, title in zip(grid[:, 0], ["picture", *maps], strict=True):
        axes.set_ylabel(title, fontsize=9)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    figure.supxlabel(f"attention of the class token in block {block} (from 0), mean over heads", fontsize=8)
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
