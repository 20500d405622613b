"""What happens to a photograph before the network sees it; masks go through the same geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import RandAugment
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from vitreg.errors import InputError
from vitreg.train.data.samples import Box

EVALUATION_RATIO = 256 / 224
"""The short side before the centre crop, as a multiple of the crop: Resize(256) + CenterCrop(224)."""


LONGEST = 16
"""How many times as long as wide a picture is at most when it is resized for the centre crop."""


def training_transform(
    size: int, *, augment: str, mean: tuple[float, ...]
) -> Callable[[Image.Image], Tensor]:
    """Return random crop, flip and augmentation, from a picture to uint8 [3, size, size].

    `augment` is a timm augmentation string (`rand-m9-mstd0.5-inc1`), `crop` for crop and flip alone, or
    `none` for the evaluation transform.

    Raises:
        InputError: timm does not know the string.
    """
    if augment == "none":
        return partial(_plain, size)  # which processes that are spawned can be sent
    try:
        transform = create_transform(
            size,
            is_training=True,
            auto_augment=None if augment == "crop" else augment,
            color_jitter=0.0,
            interpolation="bicubic",
            mean=mean,  # the colour of what RandAugment moves into the picture
            re_prob=0.0,  # the paper: no random erasing
            normalize=False,
        )
    except Exception as error:  # timm takes the string apart with whatever error that leads to
        raise InputError(f"timm does not know the augmentation {augment!r}: {error}") from error
    # NOTE[DIFF]: at full magnitude, one draw in fifty, timm's posterize keeps 0 bits: a black picture with
    # an old Pillow, an error with a new one. Just below, it keeps 1.
    for step in transform.transforms:
        for operation in step.ops if isinstance(step, RandAugment) else ():
            if operation.name.startswith("Posterize"):
                operation.magnitude_max = 9.99
    return transform


def _plain(size: int, picture: Image.Image) -> Tensor:
    return evaluation_transform(size)(picture, None)[0]


def evaluation_transform(
    size: int, *, ratio: float = EVALUATION_RATIO
) -> Callable[[Image.Image, Tensor | None], tuple[Tensor, Tensor | None]]:
    """Return resize and centre crop of picture and mask, to uint8 [3, size, size] and bool [size, size].

    The short side is `ratio` times the crop.
    """
    geometry = v2.Compose(
        [v2.Resize(round(size * ratio), InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(size)]
    )

    def transform(picture: Image.Image, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        picture, mask = _not_too_long(picture, mask)
        if mask is None:
            return v2.functional.pil_to_tensor(geometry(picture)), None
        if tuple(mask.shape) != (picture.height, picture.width):
            raise ValueError(
                f"a mask of {tuple(mask.shape)} for a picture of {picture.height, picture.width}"
            )
        # torchvision resizes a `Mask` by the nearest pixel, with the size and crop of the picture beside it.
        picture, cut = geometry(picture, tv_tensors.Mask(mask.to(torch.uint8)))
        return v2.functional.pil_to_tensor(picture), cut.bool().as_subclass(Tensor)

    return transform


def _not_too_long(picture: Image.Image, mask: Tensor | None) -> tuple[Image.Image, Tensor | None]:
    """Return the middle of a very long picture and its mask, of which the centre crop sees a part only.

    Resized as a whole, a picture of 1 × 20,000 pixels would take gigabytes.
    """
    width, height = picture.size
    longest = LONGEST * min(width, height)
    if max(width, height) <= longest:
        return picture, mask
    left, top = (max(0, side - longest) // 2 for side in (width, height))
    right, bottom = left + min(width, longest), top + min(height, longest)
    cut = None if mask is None else mask[top:bottom, left:right]
    return picture.crop((left, top, right, bottom)), cut


def box_mask(box: Box, *, height: int, width: int) -> Tensor:
    """Return bool [height, width], true where a pixel's centre lies in the box."""
    left, top, box_width, box_height = box
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    inside_x = (x >= left) & (x < left + box_width)
    inside_y = (y >= top) & (y < top + box_height)
    return inside_y[:, None] & inside_x[None, :]


def trimap_mask(trimap: Image.Image, object_values: Sequence[int] = (1,)) -> Tensor:
    """Return bool [height, width], true on the object (1); the undecided outline (3) is not counted to it."""
    return torch.from_numpy(np.isin(np.asarray(trimap), object_values))
