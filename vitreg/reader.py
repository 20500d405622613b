"""Read values out of one tower while it runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.errors import StateError, UnsupportedModelError
from vitreg.extractors import extractors
from vitreg.functional.kept_tensors import kept_by_itself
from vitreg.functional.precision import Autocast, autocast_now
from vitreg.hooks import Hooks
from vitreg.names import plain_name
from vitreg.types import Probe, Query, Tap, Tower

Key = tuple[str, Query]
"""An extractor's name and the query."""

Slot = tuple[str, Query, int]
"""A key and the index of a block."""


readers: weakref.WeakKeyDictionary[nn.Module, weakref.WeakSet[Reader]] = weakref.WeakKeyDictionary()
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
        self.knows_stem = False  # whether it was looked at what reaches the stem
        self.values: dict[Slot, Tensor] = {}
        self.images: Tensor | None = None
        self._images_version: int | None = None
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
        names = {id(module): name for name, module in tower.module.named_modules()}
        self._places = {
            names[id(tap.module)]: tap.module
            for value in slots
            for tap in value.probe.taps.values()
            if id(tap.module) in names
        }
        receivers: list[tuple[Tap, Callable[[Any], None]]] = [(Tap(tower.stem, "input"), self._begin)]
        for value in slots:
            receivers.extend((tap, value.receiver(key)) for key, tap in value.probe.taps.items())
        self._hooks = Hooks(receivers)
        readers.setdefault(tower.module, weakref.WeakSet()).add(self)

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

    def replaced(self) -> str | None:
        """Return the name of a module that is read and stands no longer where it stood, or None."""
        now: dict[str, set[int]] = {}
        for name, module in self.tower.module.named_modules(remove_duplicate=False):
            now.setdefault(plain_name(name), set()).add(id(module))
        for name, module in self._places.items():
            if id(module) not in now.get(plain_name(name), ()):
                return name
        return None

    def recall(self, values: Iterable[Tensor], images: Tensor) -> None:
        """Stand as after a pass on `images` that read `values`, in the order of the slots."""
        self.values = dict(zip(self.slots, values, strict=True))
        self.images = images
        self.skipped = None

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
        if _in_backward():
            return
        if not self.enabled:
            return
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
        images, *more = *args, *kwargs.values()
        if not isinstance(images, Tensor) or images.dim() != 4:
            found = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise UnsupportedModelError(
                f"Expected a batch of images [b, c, height, width], found {found}. "
                "Give the model images instead of patches that were cut before."
            )
        if self.training_only and any(argument is not None and argument is not False for argument in more):
            raise UnsupportedModelError(
                "Expected a model that is called with images alone, found further arguments to "
                f"{type(self.tower.stem).__name__}, such as masked positions: the source gets the images "
                "only. Call the model without them."
            )
        self.images = images
        self._images_version = _version(images)
        self.autocast = autocast_now(images)

    def reads_now(self, slot: Slot) -> bool:
        """Return whether a hook that fires now for `slot` belongs to a pass that is read."""
        if not self.enabled or _in_backward():
            return False
        if not self.training_only:
            return True
        if self.skipped is not None:
            return False
        if not torch.is_grad_enabled():
            if slot in self.values:
                return False  # a part of the model that is run again, for itself
            raise StateError(
                "A block ran without gradients inside a training pass, so a penalty on it would be inert. "
                "This is what reentrant activation checkpointing does: use use_reentrant=False "
                "(timm: timm.layers.set_reentrant_ckpt(False))."
            )
        return True

    def store(self, slot: Slot, value: Tensor) -> None:
        """Keep the value of `slot` in this pass.

        Raises:
            UnsupportedModelError: there is one already.
        """
        if slot in self.values:
            name, _, index = slot
            raise UnsupportedModelError(
                f"Expected each block to run once in a forward pass; what {name} of block {index} is read "
                "from ran twice (blocks or norms that are shared, or run in a loop). Read other blocks."
            )
        self.values[slot] = value
        if self.stop and self.complete():
            raise ReadingComplete


def check_taps(what: str, taps: Mapping[str, Tap]) -> None:
    """Raise `UnsupportedModelError` if two taps are at one place, which would deliver twice for one."""
    if len({(id(tap.module), tap.side) for tap in taps.values()}) < len(taps):
        raise UnsupportedModelError(
            f"{what} is read from several modules, found one that stands for two of them, such as one "
            "norm for queries and keys. Give each its own, or read block_output."
        )


class _Value:
    """One wanted value, read as soon as its last tap has delivered."""

    def __init__(self, reader: Reader, slot: Slot, probe: Probe) -> None:
        check_taps(slot[0], probe.taps)
        self.reader = reader
        self.slot = slot
        self.probe = probe
        self.seen: dict[str, Any] = {}

    def receiver(self, key: str) -> Callable[[Any], None]:
        def receive(delivered: Any) -> None:
            if not self.reader.reads_now(self.slot):
                return
            self.seen[key] = delivered
            if len(self.seen) == len(self.probe.taps):
                with kept_by_itself():
                    value = self.probe.read(self.seen)
                self.seen.clear()
                self.reader.store(self.slot, value)

        return receive


def _version(images: Tensor) -> int | None:
    """Return a number that grows with each write to `images`, or None where torch does not count."""
    return None if torch.compiler.is_compiling() or images.is_inference() else images._version


def _in_backward() -> bool:
    """Return whether autograd is running a backward pass, as when a checkpointed block runs again."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1
