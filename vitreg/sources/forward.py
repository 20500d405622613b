"""One forward pass of a tower, for what one reader wants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitreg.errors import MismatchError, UnsupportedModelError, VitregError, in_words
from vitreg.functional.precision import Autocast, autocast_as
from vitreg.reader import ALONE, Reader, ReadingComplete, as_called, readers
from vitreg.reader.forward_pass import version_of
from vitreg.types import Arguments, Tower


def run_source(reader: Reader, images: Tensor, autocast: Autocast | None, more: Arguments = ALONE) -> None:
    """Run the reader's tower on the `images` of another model's pass until the reader has everything.

    `more` is what that model was called with beside the images.

    Raises:
        UnsupportedModelError: the model changes the images before its stem, which would happen twice.
        MismatchError: the tower fails, as one of another picture size does.
    """
    version = version_of(images)
    try:
        run_tower(reader, images, autocast, more)
    except (VitregError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise MismatchError(
            f"Expected a source that runs on the model's images, {in_words(images)}, found that it fails "
            f"({type(error).__name__}: {str(error).strip()}). If the model takes another picture size "
            "since it was attached (set_input_size), attach again: with a source of that size, or with the "
            "old one and align='resample'."
        ) from error
    _check_same_images(reader, images, is_changed=version_of(images) != version)


def run_tower(reader: Reader, images: Tensor, autocast: Autocast | None, more: Arguments = ALONE) -> None:
    """Run the reader's tower on `images` [b, c, height, width] until the reader has everything.

    It runs without gradients and under the given autocast; no other reader of the same tower sees it.
    """
    reader.enabled = True
    args, kwargs = as_called(more)
    try:
        with _others_silent(reader), torch.no_grad(), autocast_as(images, autocast):
            reader.tower.module(images, *args, **kwargs)
    except ReadingComplete:
        pass
    finally:
        reader.enabled = False


def _check_same_images(reader: Reader, images: Tensor, is_changed: bool) -> None:
    """Raise `UnsupportedModelError` unless the stem received the images that the model was called with.

    Images that were changed in between (normalised, resized) would be changed again by the source, in place
    too. Unless they are the same tensor, they are compared once: it waits for the device.
    """
    if not is_changed and (reader.images is images or reader.knows_stem):
        return
    if (
        is_changed
        or reader.images is None
        or reader.images.shape != images.shape
        or not torch.equal(reader.images, images)
    ):
        raise UnsupportedModelError(
            f"Expected {type(reader.tower.module).__name__} to hand its images to "
            f"{type(reader.tower.stem).__name__} as they are, found that it changes them, so the source "
            "would see them changed twice. Move the change out of the model, into the data."
        )
    reader.knows_stem = True


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into eval mode, and afterwards each part back into the mode that it was in.

    Only the flags are set: a `train()` of somebody's own may do more, such as merging an adapter.
    """
    training = [part for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def _others_silent(reader: Reader) -> Iterator[None]:
    """Let no other reader of the same tower see the passes that follow.

    Not in a compiled function, which would be bound to the readers of all towers that there are: a frozen
    source has no other reader but a trace of its own, and a model that is its own source never runs in one.
    """
    known = () if torch.compiler.is_compiling() else readers.get(reader.tower.module, ())
    others = [o for o in known if o is not reader and o.enabled]
    for other in others:
        other.enabled = False
    try:
        yield
    finally:
        for other in others:
            other.enabled = True


def image_size(tower: Tower) -> tuple[int, int] | None:
    """Return the only picture size that the tower takes, or None where it takes several."""
    if tower.grid is None or tower.patch_size is None:
        return None
    return tower.grid[0] * tower.patch_size[0], tower.grid[1] * tower.patch_size[1]


def to_own_size(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Return the images at the source's own size, which differs from the model's by request only."""
    if size is None or images.shape[-2:] == size:
        return images
    own = F.interpolate(images.float(), size=size, mode="bicubic", align_corners=False, antialias=True)
    return own.to(images.dtype)
