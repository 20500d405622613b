"""Pictures brought to the size and range that a model of timm was trained with."""

from __future__ import annotations

from collections.abc import Sequence

import timm.data
import torch
from PIL import Image
from torch import Tensor, nn

from vitreg.errors import ArgumentError


def as_the_model_sees(
    pictures: Sequence[Image.Image], model: nn.Module, size: int | None
) -> tuple[Tensor, Tensor]:
    """Return the crops to show, uint8 [b, 3, height, width], and the same normalised for the model.

    Size, crop, mean and deviation are those that timm notes for the model; `size`, in pixels, replaces the
    first.

    Raises:
        ArgumentError: the model takes no colour pictures.
    """
    config = timm.data.resolve_model_data_config(model, args={"img_size": size})
    if config["input_size"][0] != 3:
        raise ArgumentError(f"Expected a model of pictures with 3 channels, found {config['input_size'][0]}.")
    crop = timm.data.create_transform(**config, is_training=False, normalize=False)
    shown = torch.stack([crop(picture) for picture in pictures])
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    return shown, (shown / 255 - mean) / std
