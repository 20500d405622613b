"""Read values out of one tower while it runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.errors import ArgumentError, StateError, UnsupportedModelError
from vitreg.extractors import extractors, has_query
from vitreg.functional.precision import Autocast, autocast_now
from vitreg.hooks import Hooks
from vitreg.layers import resolve_layers
from vitreg.types import Layers, Probe, Query, Tap, Tower

Key = tuple[str, Query]
"""An extractor's name and the query."""

Slot = tuple[str, Query, int]
"""A key and the index of a block."""


_readers: weakref.WeakKeyDictionary[nn.Module, weakref.WeakSet[Reader]] = weakref.WeakKeyDictionary()
"""The readers of each tower."""


class ReadingComplete(Exception):  # noqa: N818
    """Ends a forward pass whose every wanted value has been read."""


class Reader:
    """Hooks on a tower that store what is wanted of each forward pass, and nothing else.

    Args:
        tower: what is read.
        wanted: for each key, the indices of the blocks.
        training_only: read only passes in training mode with gradients, and refuse passes whose blocks run
            without (reentrant checkpointing).
        stop: end the forward pass with `ReadingComplete` once everything has been read.
    """

    def __init__(
        self,
        tower: Tower,
        wanted: Mapping[Key, Iterable[int]],
        *,
        training_only: bool = False,
        stop: bool = False,
    ) -> None:
        self.tower = tower
        self.training_only = training_only
        self.stop = stop
        self.enabled = True
        self.values: dict[Slot, Tensor] = {}
        self.images: Tensor | None = None
        self._images_version: int | None = None
        self._reads_again = False  # whether the last pass with gradients was read, should it run again
        self.autocast: Autocast | None = None
        self.skipped: str | None = (
            "none was seen since attaching (a model that was compiled before has to be compiled again)"
        )
        slots: list[_Value] = []
        for (name, query), indices in wanted.items():
            extractor = extractors[name]
            for index in sorted(indices):
                probe = extractor.probe(tower, tower.blocks[index], query)
                slots.append(_Value(self, (name, query, index), probe))
        self.slots = tuple(value.slot for value in slots)
        receivers: list[tuple[Tap, Callable[[Any], None]]] = [(Tap(tower.stem, "input"), self._begin)]
        for value in slots:
            receivers.extend((tap, value.receiver(key)) for key, tap in value.probe.taps.items())
        self._hooks = Hooks(receivers)
        _readers.setdefault(tower.module, weakref.WeakSet()).add(self)

    def of(self, key: Key, indices: Iterable[int]) -> list[Tensor]:
        """Return the values of `key` in the last pass, one a block of `indices`."""
        return [self.values[(*key, index)] for index in indices]

    def complete(self) -> bool:
        """Return whether every wanted value of the last pass has been read."""
        return len(self.values) == len(self.slots)

    def missing(self) -> list[Slot]:
        """Return what the last pass should have delivered and did not."""
        return [slot for slot in self.slots if slot not in self.values]

    def images_changed(self) -> bool:
        """Return whether the images were written to since the pass began."""
        if self.images is None or self._images_version is None:
            return False
        return _version(self.images) != self._images_version

    def clear(self, reason: str) -> None:
        """Forget the last pass; `reason` ends the sentence that says why there is none."""
        self.values.clear()
        self.images = None
        self.skipped = reason

    def remove(self) -> None:
        """Remove the hooks; what the last pass read stays."""
        self._hooks.remove()

    def _begin(self, delivered: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        """Start a pass: the stem is about to run on the images."""
        if _in_backward() or not self.enabled:
            return
        if torch.is_grad_enabled():
            self._reads_again = not self.training_only or self.tower.module.training
        if self.training_only:
            if not self.tower.module.training:
                self.skipped = "the last one ran in eval mode; call model.train() before it"
                return
            if not torch.is_grad_enabled():
                self.skipped = "the last one ran without gradients (torch.no_grad or inference_mode)"
                return
        self.values.clear()
        self.skipped = None
        args, kwargs = delivered
        images = args[0] if args else next(iter(kwargs.values()))
        if not isinstance(images, Tensor) or images.dim() != 4:
            found = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise UnsupportedModelError(
                f"Expected a batch of images [b, c, height, width], found {found}. "
                "Give the model images instead of patches that were cut before."
            )
        self.images = images
        self._images_version = _version(images)
        self.autocast = autocast_now(images)

    def reads_now(self) -> bool:
        """Return whether a hook that fires now belongs to a pass that is read."""
        if not self.enabled:
            return False
        if _in_backward():
            return self._reads_again  # a checkpointed block must save the same tensors again
        if not self.training_only:
            return True
        if self.skipped is not None:
            return False
        if not torch.is_grad_enabled():
            raise StateError(
                "A block ran without gradients inside a training pass, so a penalty on it would be inert. "
                "This is what reentrant activation checkpointing does: use use_reentrant=False "
                "(timm: timm.layers.set_reentrant_ckpt(False))."
            )
        return True

    def store(self, slot: Slot, value: Tensor) -> None:
        """Keep the first value of `slot` in this pass."""
        if _in_backward():
            return
        self.values.setdefault(slot, value)
        if self.stop and self.complete():
            raise ReadingComplete


class _Value:
    """One wanted value, read as soon as its last tap has delivered."""

    def __init__(self, reader: Reader, slot: Slot, probe: Probe) -> None:
        self.reader = reader
        self.slot = slot
        self.probe = probe
        self.seen: dict[str, Any] = {}

    def receiver(self, key: str) -> Callable[[Any], None]:
        def receive(delivered: Any) -> None:
            if not self.reader.reads_now():
                return
            self.seen[key] = delivered
            if len(self.seen) == len(self.probe.taps):
                value = self.probe.read(self.seen)
                self.seen.clear()
                self.reader.store(self.slot, value)

        return receive


@contextmanager
def others_silent(reader: Reader) -> Iterator[None]:
    """Let no other reader of the same tower see the passes that follow."""
    others = [o for o in _readers.get(reader.tower.module, ()) if o is not reader and o.enabled]
    for other in others:
        other.enabled = False
    try:
        yield
    finally:
        for other in others:
            other.enabled = True


def _version(images: Tensor) -> int | None:
    """Return a number that grows with each write to `images`, or None where torch does not count."""
    return None if torch.compiler.is_compiling() or images.is_inference() else images._version


def _in_backward() -> bool:
    """Return whether autograd is running a backward pass, as when a checkpointed block runs again."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1


def blocks_read(name: str, layers: Layers, query: Query, tower: Tower) -> tuple[int, ...]:
    """Return the indices of the blocks that the extractor `name` reads in `tower`.

    Of attention, "all" means the blocks that have the query: a class token may join in the last ones only.

    Raises:
        ArgumentError: an unknown extractor, `layers` that select nothing, or `layers` for an extractor that
            has one value a forward pass.
    """
    if not isinstance(name, str):
        raise ArgumentError(f"An extractor is named by a string, got {type(name).__name__} ({name!r}).")
    depth = len(tower.blocks)
    extractor = extractors[name]
    if not extractor.per_block or (extractor.of_attention and query == "pool"):
        if layers != "all":
            what = name if not extractor.per_block else f"{name} with query='pool'"
            raise ArgumentError(f"{what} has one value a forward pass and takes no layers, got {layers!r}.")
        return (depth - 1,)
    if extractor.of_attention and isinstance(layers, str) and layers == "all":
        some = tuple(i for i, block in enumerate(tower.blocks) if has_query(block, query))
        return some or tuple(range(depth))  # none: the extractor says what is possible instead
    return resolve_layers(layers, depth)
