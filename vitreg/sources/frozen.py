"""The frozen pre-trained model, run no further than the deepest value that is read."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from vitreg.errors import ArgumentError, MismatchError, UnsupportedModelError
from vitreg.families import find_tower
from vitreg.functional.precision import Autocast
from vitreg.functional.shards import sharded_by
from vitreg.hooks import eagerly
from vitreg.reader import ALONE, Reader, draws_numbers, tensors_in
from vitreg.reader.random_state import RandomState, are_equal, random_state, replay
from vitreg.sources.adapted import BaseSource
from vitreg.sources.copies import frozen_copy
from vitreg.sources.forward import image_size, run_source, to_own_size
from vitreg.sources.functions import move
from vitreg.sources.independence import check_independent, named_storages, own_weights_only, weights_of
from vitreg.sources.match import check_match
from vitreg.sources.patches import check_patches_stay
from vitreg.types import Arguments, Tower, ViewNumbers
from vitreg.wording import type_and_value

ENOUGH_PIXELS = 64 * 224**2
"""How many pixels keep a GPU busy."""

ENOUGH_PIXELS_ON_CPU = 4 * 224**2
"""The same of a CPU."""


@dataclass
class _Weights:
    """What is known of weights that several sources may share."""

    beside: list[Tensor | nn.Module]  # that functions on modules refer to
    original: Callable[[], nn.Module | None]  # what they were copied from
    are_rounded: bool = False
    are_own: bool = False  # a pass was watched, and took no weights but these
    is_random: bool = False  # that pass drew random numbers

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "original": type(None)}


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
        with torch.inference_mode(False):  # else no gradient could be computed beside the copy's weights
            module, beside = frozen_copy(tower.module)
        self.tower = find_tower(module)
        self.autocast = autocast
        self._weights = _Weights(beside, original=weakref.ref(tower.module))
        check_independent(self.tower, tower.module, beside, image_size(self.tower))

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
        if ours.is_meta and not theirs.is_meta:
            raise MismatchError(
                "Expected a source with weights, found it on the meta device, where the model was as it was "
                "attached. Attach once its weights are loaded, or pass a source that has some."
            )
        if theirs.dtype.itemsize > ours.dtype.itemsize and self._weights.are_rounded:
            raise MismatchError(
                f"The model is {theirs.dtype}, but its source was rounded to {ours.dtype} for another model "
                "that shares it. Give each model a source of its own."
            )
        self._weights.are_rounded |= theirs.dtype.itemsize < ours.dtype.itemsize
        if theirs.device != ours.device or theirs.dtype != ours.dtype:
            for part in (self.tower.module, *self._weights.beside):
                move(part, theirs)

    def read(
        self,
        reader: Reader,
        images: Tensor,
        autocast: Autocast | None,
        *,
        more: Arguments = ALONE,
        random: RandomState | None = None,
        resize: bool = False,
        views: ViewNumbers | None = None,
    ) -> None:
        """Run the frozen copy on `images` [b, c, height, width], as deep as `reader` waits for.

        Args:
            reader: what reads.
            images: what the model's stem received.
            autocast: that of the model's pass, in which the copy runs, too.
            more: what the model was called with beside the images.
            random: the random numbers that the model had before it; a source that draws some has the same.
            resize: bring the images to the source's own size first.
            views: the numbers of the images, for a source that remembers.

        Raises:
            UnsupportedModelError: the model changes the images before its stem, which would happen twice, or
                the source takes weights that are not its own.
            MismatchError: the source cannot be run on what the model was called with, or sorts its patches.
        """
        if resize:
            images = to_own_size(images, image_size(self.tower))
        precision = self.precision(autocast)
        if (self._weights.are_own and not self.is_random) or torch.compiler.is_compiling():
            self._run(reader, images, precision, more)
            return
        was_random = self.is_random  # then half a batch would draw other numbers than the whole
        own = [images, *tensors_in(more), *weights_of(self._weights.beside)]
        others = named_storages(self._weights.original())
        watch = own_weights_only(self.tower.module, given=own, others=others)
        with replay(random, images.device), watch:
            before = random_state(images.device)
            self._run(reader, images, precision, more, whole=was_random)
            self._weights.is_random = not are_equal(before, random_state(images.device))
        if not self._weights.are_own and not self.is_random and not any(True for _ in tensors_in(more)):
            check_patches_stay(self.tower, images, precision, more)
        self._weights.are_own = True
        if self.is_random and not was_random:
            FrozenSource.read(self, reader, images, autocast, more=more, random=random)

    def _run(
        self, reader: Reader, images: Tensor, autocast: Autocast | None, more: Arguments, whole: bool = False
    ) -> None:
        """Run on the images, or on one half after the other."""
        of_all = any(True for _ in tensors_in(more)) or (more is not ALONE and draws_numbers(more))
        if whole or of_all or not _halves_are_large(images):
            run_source(reader, images, autocast, more)
            return
        halves = images.chunk(2)
        run_source(reader, halves[0], autocast, more)
        first = [reader.values[slot] for slot in reader.slots]
        if any(value.dim() < 1 or len(value) != len(halves[0]) for value in first):
            run_source(reader, images, autocast, more)  # somebody's extractor that is not one value an image
            return
        run_source(reader, halves[1], autocast, more)
        second = [reader.values[slot] for slot in reader.slots]
        reader.recall([torch.cat(pair) for pair in zip(first, second, strict=True)], images)

    @property
    def is_random(self) -> bool:
        """Whether the source draws random numbers in eval mode, as far as is known."""
        return self._weights.is_random

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
        f"source must be a module, an attachment's source, 'base' or None, got {type_and_value(source)}."
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
