"""Pictures from files, brought to the size and range that a model of timm was trained with."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm.data
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from vitreg.errors import ArgumentError


def read_picture(path: Path) -> Image.Image:
    """Return the picture in a file, turned as its camera noted, in red, green and blue.

    Raises:
        ArgumentError: there is no such file, or it holds no whole picture.
    """
    if os.path.isdir(path):
        raise ArgumentError(
            f"Expected a picture, found the folder {path}. Name its files, such as {path}/*.jpg."
        )
    try:
        with Image.open(path) as stored:
            return _in_colours(ImageOps.exif_transpose(stored), path)
    except FileNotFoundError as error:
        raise ArgumentError(f"There is no picture {path}.") from error
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise ArgumentError(f"Expected a picture in {path}, found none that can be read: {error}") from error


def _in_colours(picture: Image.Image, path: Path) -> Image.Image:
    """Return red, green and blue of 8 bits: 16 bits are scaled, and what is transparent is on white."""
    if picture.mode in ("I", "F"):
        raise ArgumentError(
            f"Expected a picture whose brightest value is known, found {path} in mode {picture.mode!r}. "
            "Save it with 8 or 16 bits a channel."
        )
    if picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(np.uint16) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


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
