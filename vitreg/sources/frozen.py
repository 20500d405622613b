"""The frozen pre-trained model, run no further than the deepest value that is read."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitreg.errors import ArgumentError, MismatchError, UnsupportedModelError
from vitreg.families import find_tower, towers
from vitreg.functional.eagerly import eagerly
from vitreg.functional.precision import Autocast
from vitreg.functional.sharding import sharded_by
from vitreg.reader import Reader
from vitreg.sources.adapted import BaseSource
from vitreg.sources.copies import frozen_copy
from vitreg.sources.forward import run_source
from vitreg.types import Tower, ViewNumbers

ENOUGH_PIXELS = 64 * 224**2
"""How many pixels keep a GPU busy."""

ENOUGH_PIXELS_ON_CPU = 4 * 224**2
"""The same of a CPU."""


@dataclass
class _Weights:
    """What became of weights that several sources may share."""

    are_rounded: bool = False


class FrozenSource:
    """A frozen copy of a model's Vision Transformer, in eval mode and without gradients.

    It is a copy, so training the original changes nothing here, and no submodule of the model, so its
    weights are in no `parameters()` and no `state_dict()`. Pass `attachment.source` as the source of another
    attachment to share it.

    Args:
        model: the pre-trained model.
        autocast: run in this lower precision, whatever the model's own; by default under the autocast of the
            model's pass. bfloat16 makes the source much cheaper where the hardware has it, and rounds what is
            read to 2 to 3 digits: the penalty is no longer exactly zero where nothing was trained.

    Raises:
        UnsupportedModelError: the weights are sharded, or something on a module cannot be copied.
        ArgumentError: `autocast` is no lower precision.
    """

    @eagerly
    def __init__(self, model: nn.Module, *, autocast: torch.dtype | None = None) -> None:
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise ArgumentError(f"autocast must be torch.bfloat16, float16 or None, got {autocast!r}.")
        tower = find_tower(model)
        sharded = sharded_by(tower.module.parameters())
        if sharded is not None:
            raise UnsupportedModelError(
                f"Expected a source whose weights are whole, found sharded ones ({sharded}), which cannot be "
                "copied. Attach before they are sharded, or pass a source that is not."
            )
        self.tower = find_tower(frozen_copy(tower.module))
        self.autocast = autocast
        self._weights = _Weights()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "tower": self.tower.module}  # a tower's probes are functions of this process

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.tower = find_tower(state["tower"])

    def follow(self, model: nn.Module) -> None:
        """Move to the device and floating-point type of `model`'s weights, if they differ.

        Raises:
            MismatchError: the weights were rounded for another model, and this one is more precise.
        """
        theirs, ours = next(model.parameters()), next(self.tower.module.parameters())
        if theirs.dtype.itemsize > ours.dtype.itemsize and self._weights.are_rounded:
            raise MismatchError(
                f"The model is {theirs.dtype}, but its source was rounded to {ours.dtype} for another model "
                "that shares it. Give each model a source of its own."
            )
        self._weights.are_rounded |= theirs.dtype.itemsize < ours.dtype.itemsize
        if theirs.device != ours.device or theirs.dtype != ours.dtype:
            self.tower.module.to(device=theirs.device, dtype=theirs.dtype)

    def read(
        self,
        reader: Reader,
        images: Tensor,
        autocast: Autocast | None,
        *,
        resize: bool = False,
        views: ViewNumbers | None = None,
    ) -> None:
        """Run on `images` [b, c, height, width] until `reader` has everything, under the given autocast.

        With `resize` they are brought to the source's own size first; `views` are for a source that
        remembers.

        Raises:
            UnsupportedModelError: the model changes the images before its stem, which would happen twice.
        """
        if resize:
            images = _resized(images, image_size(self.tower))
        precision = self.precision(autocast)
        if not _halves_are_large(images):
            run_source(reader, images, precision)
            return
        halves = images.chunk(2)
        run_source(reader, halves[0], precision)
        first = [reader.values[slot] for slot in reader.slots]
        if any(value.dim() < 1 or len(value) != len(halves[0]) for value in first):
            run_source(reader, images, precision)  # an extractor of somebody's that is not one value an image
            return
        run_source(reader, halves[1], precision)
        second = [reader.values[slot] for slot in reader.slots]
        reader.recall([torch.cat(pair) for pair in zip(first, second, strict=True)], images)

    def precision(self, autocast: Autocast | None) -> Autocast | None:
        """Return the autocast of the source's pass, where that of the model's is `autocast`."""
        return autocast if self.autocast is None else (True, self.autocast)


Source: TypeAlias = FrozenSource | BaseSource
"""What a penalty compares the model with."""


def check_source(source: object) -> None:
    """Raise `ArgumentError` unless `source` is something that `make_source` takes."""
    if source is None or source == "base" or isinstance(source, nn.Module | FrozenSource | BaseSource):
        return
    raise ArgumentError(
        "source must be a module, an attachment's source, 'base' or None, got "
        f"{type(source).__name__} ({source!r})."
    )


def make_source(
    source: nn.Module | Source | str | None, model: nn.Module, tower: Tower, may_differ: Set[str]
) -> Source:
    """Return the source of `model`, whose tower is `tower`.

    Args:
        source: a module, of which a frozen copy is made; another attachment's source, which is shared; "base"
            for the model without its adapters; None for a frozen copy of the model as it is.
        model: the model.
        tower: its tower.
        may_differ: in what the source may differ from the model, see `check_match`.

    Raises:
        ArgumentError: the model has no adapters to switch off.
        MismatchError: the source differs from the model in architecture, other than in what `may_differ`.
    """
    if isinstance(source, FrozenSource):
        check_match(tower, source.tower, may_differ)
        return source
    if isinstance(source, BaseSource):
        if source.tower.module is not tower.module:
            raise MismatchError(
                "A source='base' belongs to its own model, found another. Pass 'base' here too."
            )
        return source
    if source == "base":
        return BaseSource(tower)
    if not isinstance(source, nn.Module):
        return FrozenSource(model)
    check_match(tower, find_tower(source), may_differ)
    return FrozenSource(source)


def _halves_are_large(images: Tensor) -> bool:
    """Return whether half of the images keep the device busy.

    Then they are read one half after the other: it takes as long, and what the source computes on the way,
    which lies in memory beside all that the model keeps for its backward pass, is half as much.
    """
    enough = ENOUGH_PIXELS_ON_CPU if images.device.type == "cpu" else ENOUGH_PIXELS
    return len(images) > 1 and len(images) // 2 * images.shape[-2] * images.shape[-1] >= enough


def image_size(tower: Tower) -> tuple[int, int] | None:
    """Return the only picture size that the tower takes, or None where it takes several."""
    if tower.grid is None or tower.patch_size is None:
        return None
    return tower.grid[0] * tower.patch_size[0], tower.grid[1] * tower.patch_size[1]


def _resized(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Return the images at the source's own size, which differs from the model's by request only."""
    if size is None or images.shape[-2:] == size:
        return images
    resized = F.interpolate(images.float(), size=size, mode="bicubic", align_corners=False, antialias=True)
    return resized.to(images.dtype)


def check_match(target: Tower, source: Tower, may_differ: Set[str]) -> None:
    """Raise `MismatchError` unless two towers agree in class, depth, heads, tokens, grid and width.

    Those named in `may_differ` are not compared.
    """
    differences = [
        f"{what}: {ours} in the model, {theirs} in the source"
        for what, ours, theirs in (
            ("class", _class(target), _class(source)),
            ("blocks", len(target.blocks), len(source.blocks)),
            ("heads", _heads(target), _heads(source)),
            ("class token", target.has_class_token, source.has_class_token),
            ("prefix tokens", target.num_prefix_tokens, source.num_prefix_tokens),
            ("patch grid", target.grid, source.grid),
            ("patch size", target.patch_size, source.patch_size),
            ("width", target.width, source.width),
        )
        if ours != theirs and what not in may_differ
    ]
    if differences:
        raise MismatchError(
            f"Expected a source of the model's own architecture; they differ in {'; '.join(differences)}. "
            "Create both by the same call (timm: the same name and img_size), or pass source=None to freeze "
            "a copy of the model as it is now. To guide by a different model, ask for it: "
            "layers={model's block: source's block}, heads='mean', align='resample'."
        )


def _class(tower: Tower) -> str:
    cls = towers.class_of(tower.module)  # FSDP2 makes subclasses, which are the same model
    return "unknown" if cls is None else f"{cls.__module__}.{cls.__qualname__}"


def _heads(tower: Tower) -> list[int | None] | int | None:
    heads = [None if block.reading is None else block.reading.num_heads for block in tower.blocks]
    return heads[0] if len(set(heads)) == 1 else heads
