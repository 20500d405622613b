"""Pictures with the [CLS] attention laid over them, a line for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accelerate import Accelerator
from torch import Tensor, nn

import vitreg
from vitreg.errors import InputError
from vitreg.plot import overlay
from vitreg.plot.style import png
from vitreg.train.data.dataset import Task
from vitreg.train.training.evaluation import evaluate

SATURATED = 0.1
"""The share of a picture's patches that is shown alike: one patch of the background often draws the most."""


def object_block(model: nn.Module, task: Task, *, accelerator: Accelerator) -> int:
    """Return the block whose attention is most on the objects; the last where nobody knows the objects."""
    if task.test_masks is None:
        return vitreg.describe(model).num_blocks - 1
    shares = evaluate(model, task, accelerator=accelerator, has_head=False)["object_share"]
    return int(max(range(len(shares)), key=shares.__getitem__))


def attention_maps(model: nn.Module, images: Tensor, block: int, *, accelerator: Accelerator) -> Tensor:
    """Return the [CLS] attention on normalised images in one block, mean over heads, as [b, side, side].

    Raises:
        InputError: The model has no such block.
    """
    model.to(accelerator.device)
    try:
        (maps,) = vitreg.measure.attention_maps(model, images.to(accelerator.device), layers=block)
    except vitreg.ArgumentError as error:
        raise InputError(f"--block {block}: {error}") from error
    return maps.mean(1).cpu()


def draw_overlays(
    pictures: Tensor,
    maps: Mapping[str, Tensor],
    *,
    block: int,
    titles: Sequence[str] = (),
    saturated: float = SATURATED,
) -> bytes:
    """Return a PNG file: a column for each picture, with heat where each model looks, a line for each model.

    `pictures` is uint8 [b, 3, size, size], each of `maps` [b, side, side]; `titles` and `saturated` as in
    `vitreg.plot.overlay`.
    """
    caption = f"attention of the class token in block {block} (from 0), mean over heads"
    return png(overlay(pictures, maps, titles=titles, saturated=saturated, caption=caption))
