"""A picture without pixels that writes down what timm's transforms ask of it.

timm, torchvision and Pillow draw and decide as they do for any picture, so no crop, magnitude, matrix or
table is written a second time. What was noted is computed elsewhere, for a batch at once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from PIL import Image
from timm.data import auto_augment
from timm.data.transforms import MaybePILToTensor, RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import ColorJitter, Compose, InterpolationMode, RandomHorizontalFlip, v2

from vitreg.errors import InputError
from vitreg.train.data.pixel_operations import (
    WARPS,
    Compute,
    auto_contrast,
    bicubic,
    blurred,
    bright,
    coloured,
    contrasted,
    desaturated,
    equalized,
    looked_up,
    sharpened,
)
from vitreg.wording import listed


class NotedPicture(Image.Image):
    """A picture without pixels that writes down what is asked of it, first a crop and perhaps a flip.

    `steps` are the operations after them, each with its numbers.
    """

    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self.box = (0, 0, width, height)
        self.side = (width, height)
        self.flipped = False
        self.steps: list[tuple[Compute, tuple[float, ...]]] = []

    @property
    def mode(self) -> str:
        """Three channels."""
        return "RGB"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height after what was noted so far."""
        return self.side

    def note(self, compute: Compute, *numbers: float) -> NotedPicture:
        """Note an operation with its numbers."""
        self.steps.append((compute, numbers))
        return self

    def copy(self) -> NotedPicture:
        """Return itself: nothing that was noted is taken back."""
        return self

    def crop(self, box: Any = None) -> NotedPicture:
        """Note the crop, in pixels: left, top, right, bottom."""
        self.box = box
        self.side = (box[2] - box[0], box[3] - box[1])
        return self

    def resize(self, size: Any, resample: Any = None, *_: Any) -> NotedPicture:
        """Note the size of the crop in the end."""
        if resample != Image.Resampling.BICUBIC:
            raise ValueError(f"crops are resized bicubically, not by {resample!r}")
        self.side = tuple(size)
        return self

    def transpose(self, method: Image.Transpose) -> NotedPicture:
        """Note a flip or a quarter turn."""
        if method == Image.Transpose.FLIP_LEFT_RIGHT:
            self.flipped = True
            return self
        return self.note(bicubic, *_quarter_turns(method, *self.side), 0, 0, 0)

    def transform(
        self,
        size: Any,
        method: Any,
        data: Any = None,
        resample: int = Image.Resampling.NEAREST,
        fill: int = 1,
        fillcolor: Any = None,
    ) -> NotedPicture:
        """Note Pillow's affine matrix and the colour beyond the picture."""
        return self.note(WARPS[Image.Resampling(resample)], *data, *fillcolor)

    def point(self, lut: Any, mode: str | None = None) -> NotedPicture:
        """Note a table of levels, 256 a channel."""
        return self.note(looked_up, *(min(max(level, 0), 255) for level in lut))

    def filter(self, filter: Any) -> NotedPicture:
        """Note a Gaussian blur."""
        return self.note(blurred, *_box_weights(filter.radius))

    def cut(self, source: Tensor) -> Tensor:
        """Return the crop of uint8 `source` [3, h, w], resized and perhaps flipped: uint8 [3, s, s]."""
        left, top, right, bottom = self.box
        crop = source[:, top:bottom, left:right]
        sides = list(reversed(self.side))
        picture = v2.functional.resize(crop, sides, InterpolationMode.BICUBIC, antialias=True)
        return picture.flip(-1) if self.flipped else picture


def noting(transform: Compose) -> Compose:
    """Return a copy of timm's transform that ends before the pixels, for `NotedPicture` pictures."""
    steps = []
    for step in transform.transforms:
        idle = isinstance(step, ColorJitter) and not any(
            (step.brightness, step.contrast, step.saturation, step.hue)
        )
        if isinstance(step, auto_augment.RandAugment):
            step = copy.deepcopy(step)
            for operation in step.ops:
                operation.aug_fn = noting_operation(operation)
        elif not idle and not isinstance(step, _STEPS):
            raise InputError(
                "augmentation on the device knows crop, none and timm's rand-..., "
                f"not {type(step).__name__}; augment on the CPU"
            )
        if not isinstance(step, MaybePILToTensor):
            steps.append(step)
    return Compose(steps)


def noting_operation(operation: auto_augment.AugmentOp) -> Callable[..., Image.Image]:
    """Return what timm shall call in place of the operation's function.

    Raises:
        InputError: It is not known here.
    """
    function = operation.aug_fn
    if function in _ASKING:
        return function
    if function in _READING:
        return partial(_noted_reading, _READING[function])
    raise InputError(
        f"augmentation on the device does not know timm's operation {operation.name}, only "
        f"{listed(sorted(known.__name__ for known in (*_ASKING, *_READING)), at_most=99)}; augment on the CPU"
    )


def _noted_reading(compute: Compute, picture: NotedPicture, *numbers: float, **_: Any) -> NotedPicture:
    return picture.note(compute, *numbers)


def _quarter_turns(method: Image.Transpose, width: int, height: int) -> tuple[int, ...]:
    """Return a turn as Pillow's matrix, from pixels of the result to those of the picture."""
    return {
        Image.Transpose.ROTATE_90: (0, -1, width, 1, 0, 0),
        Image.Transpose.ROTATE_180: (-1, 0, width, 0, -1, height),
        Image.Transpose.ROTATE_270: (0, 1, 0, -1, 0, height),
    }[method]


def _box_weights(deviation: float) -> tuple[float, ...]:
    """Return the five weights of the box that Pillow applies three times for a Gaussian, up to 2 pixels.

    Source: Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution by extended box filtering",
    Eq. (7), (11) and (14).
    """
    variance = deviation**2 / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    if whole > 1:
        raise ValueError(f"a Gaussian blur of at most 2 pixels was expected, found {deviation}")
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    inner = 1 / (2 * (whole + part) + 1)
    outer = (1 - (2 * whole + 1) * inner) / 2
    return tuple(inner if abs(k) <= whole else outer * (abs(k) == whole + 1) for k in range(-2, 3))


_STEPS = (RandomResizedCropAndInterpolation, RandomHorizontalFlip, MaybePILToTensor)
_ASKING = {
    auto_augment.rotate,
    auto_augment.shear_x,
    auto_augment.shear_y,
    auto_augment.translate_x_abs,
    auto_augment.translate_y_abs,
    auto_augment.translate_x_rel,
    auto_augment.translate_y_rel,
    auto_augment.invert,
    auto_augment.posterize,
    auto_augment.solarize,
    auto_augment.solarize_add,
    auto_augment.gaussian_blur,
    auto_augment.gaussian_blur_rand,
}
"""timm's functions that ask the picture for one thing, a matrix, a table or a blur: they run as they are."""

_READING: dict[Callable[..., Image.Image], Compute] = {
    auto_augment.auto_contrast: auto_contrast,
    auto_augment.equalize: equalized,
    auto_augment.brightness: bright,
    auto_augment.color: coloured,
    auto_augment.contrast: contrasted,
    auto_augment.desaturate: desaturated,
    auto_augment.sharpness: sharpened,
}
"""timm's functions that read the pixels, and what is computed for them."""
