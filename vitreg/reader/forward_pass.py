"""What one forward pass of a tower has left behind, as it was when it was read."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from vitreg.errors import MismatchError, StateError, UnsupportedModelError
from vitreg.functional.precision import Autocast
from vitreg.reader.random_state import RandomState
from vitreg.reader.tower_call import tensors_in
from vitreg.types import Arguments, Key, Slot, Tower

Progress = tuple[int, int]
"""How often weights were written to, and what tells their gradients from others."""


@dataclass
class Habits:
    """Which values a model writes to after they were read; known after one pass, in which all are copied.

    Torch counts no writes to `.data`, so those that begin after the first pass are not seen.
    """

    are_known: bool = False
    changed: set[Slot] = field(default_factory=set)


@dataclass
class ForwardPass:
    """One forward pass.

    Attributes:
        tower: what ran.
        habits: the reader's knowledge of the mode in which it ran.
        images: what entered the stem, [b, c, height, width]; None if there was no pass.
        more: what the tower was called with beside the images.
        is_training: whether the tower was in training mode.
        autocast: the autocast that it ran under.
        progress: how far the training was, see `progress_of`.
        random_state: the random numbers that were next as it began, or None.
        entering: what entered the first block and the last one that is read, each a tensor or None.
        leaving: the shape of what left the last block, or None.
        is_part: whether it stands for some images of a pass.
        values: what was read.
        seen: what the taps of values that are not read yet have delivered.
        is_freed: whether a backward pass went through it, and freed what another one would need.
        is_running: whether the tower was called and has not returned, as when an error ended the pass.
    """

    tower: Tower
    habits: Habits
    images: Tensor | None = None
    more: Arguments = ((), {})
    is_training: bool = False
    autocast: Autocast | None = None
    progress: Progress | None = None
    random_state: RandomState | None = None
    entering: list[Tensor | None] = field(default_factory=list)
    leaving: Sequence[int] | None = None
    is_part: bool = False
    values: dict[Slot, Tensor] = field(default_factory=dict)
    seen: dict[Slot, dict[str, Any]] = field(default_factory=dict)
    is_freed: bool = False
    is_running: bool = False
    _is_watched: bool = False
    _versions: dict[Slot, int] = field(default_factory=dict)
    _originals: dict[Slot, tuple[Tensor, int | None]] = field(default_factory=dict)
    _inputs: list[tuple[Tensor, int | None]] = field(default_factory=list)
    _pixels: Tensor | None = None

    def recall(self, images: Tensor) -> ForwardPass:
        """Return a pass on `images` whose values are put together from others, this one the last."""
        leaving = None if self.leaving is None else (len(images), *self.leaving[1:])
        return ForwardPass(self.tower, Habits(), images, entering=self.entering, leaving=leaving)

    def part(self, rows: Tensor) -> ForwardPass:
        """Return what the pass read of the images with these indices, as if it had run on them alone.

        Raises:
            MismatchError: what was read is not one value an image.
            UnsupportedModelError: the model was called with tensors beside the images.
        """
        assert self.images is not None
        self.settle()
        count, rows = len(self.images), rows.to(self.images.device, non_blocking=self.images.is_cuda)
        if any(True for _ in tensors_in(self.more)):
            raise UnsupportedModelError(
                f"Expected {type(self.tower.module).__name__} to be called with images alone, found tensors "
                "beside them, of which it is not known which belong to a part of them. Attach without "
                "fraction."
            )
        for (name, _, index), value in self.values.items():
            if value.dim() < 1 or len(value) != count:
                raise MismatchError(
                    f"Expected {name} of block {index} to have one value for each of {count} images, found "
                    f"{list(value.shape)}, of which no part can be taken. Attach without fraction."
                )
        leaving = self.leaving
        return replace(
            self,
            images=self.images[rows],
            entering=[t if t is None or len(t) != count else t[rows] for t in self.entering],
            leaving=(len(rows), *leaving[1:]) if leaving and leaving[0] == count else leaving,
            values={slot: value[rows] for slot, value in self.values.items()},
            is_part=True,
            _versions={},
            _pixels=None,
        )

    def given_tensors(self) -> list[Tensor]:
        """Return the tensors that the pass was given, or the one was that this is a part of."""
        if self.is_part:
            return [tensor for tensor, _ in self._inputs]
        return [] if self.images is None else [self.images, *tensors_in(self.more)]

    def note_inputs(self) -> None:
        """Note what the pass was given, so that a later change is seen.

        Versions do not tell what a data loader writes into its memory, nor are they known while a model is
        compiled; some of the pixels do, where looking at them waits for no device.
        """
        is_compiling = torch.compiler.is_compiling()
        is_plain = type(self.images) is Tensor and (
            is_compiling or not is_functorch_wrapped_tensor(self.images)
        )
        if self.images is not None and is_plain and self.images.device.type == "cpu":
            self._pixels = _some_pixels(self.images).clone()
        if not is_compiling:
            self._inputs = [(tensor, version_of(tensor)) for tensor in self.given_tensors()]

    def inputs_changed(self) -> bool:
        """Return whether what the pass was given was written to since it began."""
        if any(version is not None and version_of(t) != version for t, version in self._inputs):
            return True
        if self._pixels is None or self.images is None or torch.compiler.is_compiling():
            return False
        if not self.images.untyped_storage().nbytes():  # somebody freed them
            return True
        now = _some_pixels(self.images)
        return not bool(((now == self._pixels) | now.isnan()).all())

    def watch_backward(self, delivered: Any) -> None:
        """Note when a backward pass goes through the first of what was delivered that has a gradient.

        Gradients do not tell: `zero_grad` takes them away again, and `torch.autograd.grad` leaves none.
        """
        if self._is_watched or torch.compiler.is_compiling():
            return
        node = next((t.grad_fn for t in tensors_in(delivered) if t.grad_fn is not None), None)
        if node is not None:
            own = weakref.ref(self)
            node.register_prehook(lambda _gradients: _note_backward(own()))
            self._is_watched = True

    def keep(self, slot: Slot, value: Tensor) -> None:
        """Keep a value: itself, or a copy if the model writes to it later, or if that is not known yet."""
        if torch.compiler.is_compiling():  # where nothing writes to it, the compiler removes the copy again
            self.values[slot] = value.clone()
            return
        version = version_of(value)
        if self.habits.are_known and slot not in self.habits.changed and version is not None:
            self.values[slot] = value
            self._versions[slot] = version
            return
        self.values[slot] = value.clone()
        if not self.habits.are_known:
            self._originals[slot] = value, version

    def of(self, key: Key, indices: Iterable[int]) -> list[Tensor]:
        """Return the values of `key`, one a block of `indices`.

        Raises:
            StateError: a value was changed after it was read, which it was not before.
        """
        self.settle()
        return [self.values[(*key, index)] for index in indices]

    def settle(self) -> None:
        """Find out which values were written to since they were read.

        Raises:
            StateError: one that was kept as it is; from now on it is copied.
        """
        if torch.compiler.is_compiling():
            return
        for slot, (original, version) in self._originals.items():
            if version is None or version_of(original) != version or _differ(original, self.values[slot]):
                self.habits.changed.add(slot)
            else:
                self.values[slot] = original
        self.habits.are_known |= bool(self._originals)
        self._originals.clear()
        changed = [
            slot for slot, version in self._versions.items() if version_of(self.values[slot]) != version
        ]
        if changed:
            self.habits.changed.update(changed)
            name, _, index = changed[0]
            raise StateError(
                f"Expected {name} of block {index} to stay what it was after it was read, found that the "
                "model wrote to it in place, which it did not do before. Run the model again: from now on it "
                "is copied."
            )


def _some_pixels(images: Tensor) -> Tensor:
    """Return every channel at some 64 places of images [b, c, height, width]."""
    height, width = images.shape[-2:]
    return images.detach()[..., :: max(1, height // 8), :: max(1, width // 8)]


def version_of(tensor: Tensor) -> int | None:
    """Return a number that grows with each write to `tensor`, or None where torch does not count."""
    return None if torch.compiler.is_compiling() or tensor.is_inference() else tensor._version


def progress_of(parameters: Iterable[Tensor]) -> Progress | None:
    """Return what changes with each step of an optimiser and each backward pass; None where nobody knows."""
    if torch.compiler.is_compiling():
        return None
    weights, gradients = 0, 0
    for parameter in parameters:
        weights += version_of(parameter) or 0
        if parameter.grad is not None:
            gradients += id(parameter.grad) + (version_of(parameter.grad) or 0)
    return weights, gradients


def _differ(original: Tensor, kept: Tensor) -> bool:
    """Return whether a value is no longer its copy; a write to `.data` is counted by nobody."""
    return not original.is_meta and not torch.equal(original.detach(), kept.detach())


def _note_backward(one: ForwardPass | None) -> None:
    if one is not None and not torch._C._autograd._get_current_graph_task_keep_graph():
        one.is_freed = True


def in_backward() -> bool:
    """Return whether autograd is running a backward pass, as when a checkpointed block runs again."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1
