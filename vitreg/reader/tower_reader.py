"""Read values out of one tower while it runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.errors import StateError
from vitreg.extractors import extractors
from vitreg.functional.precision import autocast_now
from vitreg.hooks import Hooks
from vitreg.reader.forward_pass import ForwardPass, Habits, in_backward, progress_of
from vitreg.reader.places import Places
from vitreg.reader.random_state import random_state
from vitreg.reader.thread_passes import ThreadPasses, Threads, reason_to_skip
from vitreg.reader.tower_call import ALONE, as_called, check_images, more_arguments
from vitreg.reader.wanted_value import WantedValue, counters, refuse_to_run_twice
from vitreg.types import Arguments, Key, Passes, Slot, Tap, Tower

readers: weakref.WeakKeyDictionary[nn.Module, weakref.WeakSet[Reader]] = weakref.WeakKeyDictionary()
"""The readers of each tower."""


class ReadingComplete(Exception):  # noqa: N818
    """Ends a forward pass whose every wanted value has been read."""


class Reader:
    """Hooks on a tower that store what is wanted of each forward pass, and nothing else.

    Each thread has passes of its own.

    Args:
        tower: what is read.
        wanted: for each key, the indices of the blocks.
        passes: which passes count: the last, all, or None for all that nothing has come of yet.
        training_only: read only passes in training mode with gradients, and refuse passes whose blocks run
            without (reentrant checkpointing).
        compared: whether another tower is run as this one: what it is called with and its tokens are noted.
        counted: whether the tokens are counted that leave the last block.
        stop: end the forward pass with `ReadingComplete` once everything has been read.
    """

    def __init__(
        self,
        tower: Tower,
        wanted: Mapping[Key, Iterable[int]],
        *,
        passes: Passes | None = "last",
        training_only: bool = False,
        compared: bool = False,
        counted: bool = False,
        stop: bool = False,
    ) -> None:
        self.tower = tower
        self.passes = passes
        self.training_only = training_only
        self.stop = stop
        self.enabled = True
        self.knows_stem = False  # whether it was looked at what reaches the stem
        self.compared = compared
        self.notes_tokens = compared
        self.threads = Threads(
            tower, "none was seen since attaching (a model that was compiled before has to be compiled again)"
        )
        self._habits = {True: Habits(), False: Habits()}  # of training mode and of evaluation mode
        self._weights = tuple(tower.module.parameters()) if passes is None else ()
        values = [
            WantedValue(
                (name, query, index),
                extractors[name].probe(tower, tower.blocks[index], query),
                self._pass_now,
                self._store,
            )
            for (name, query), indices in wanted.items()
            for index in sorted(indices)
        ]
        self.slots = tuple(value.slot for value in values)
        taps = (tap for value in values for tap in value.probe.taps.values())
        self._places = Places(tower.module, [tap.module for tap in taps])
        receivers: list[tuple[Tap, Callable[[Any], None]]] = []
        if training_only:
            receivers.append((Tap(tower.module, "input"), self._enter))
            receivers.append((Tap(tower.module, "output"), self._leave))
        receivers.append((Tap(tower.stem, "input"), self._begin))
        if compared and tower.blocks:
            read = [i for (name, _), indices in wanted.items() if extractors[name].per_block for i in indices]
            entered = sorted({0, max(read, default=len(tower.blocks) - 1)})
            receivers += [(Tap(tower.blocks[index].module, "input"), self._enter_block) for index in entered]
        if counted and tower.blocks:
            probe = extractors["block_output"].probe(tower, tower.blocks[-1], "cls")
            of_pass = lambda: self.last if self._is_reading(self.threads.now()) else None  # noqa: E731
            receivers.extend(counters(probe, of_pass))
        for value in values:
            receivers.extend(value.receivers())
        self._hooks = Hooks(receivers)
        readers.setdefault(tower.module, weakref.WeakSet()).add(self)

    @property
    def last(self) -> ForwardPass:
        """The last pass of this thread."""
        return self.threads.now().current

    @property
    def values(self) -> dict[Slot, Tensor]:
        """What was read in the last pass."""
        return self.last.values

    @property
    def images(self) -> Tensor | None:
        """The images of the last pass, or None if there is none."""
        return self.last.images

    @property
    def skipped(self) -> str | None:
        """Why there is no pass, as the end of a sentence, or None if there is one."""
        return self.threads.now().skipped

    def all_passes(self) -> list[ForwardPass]:
        """Return the passes that count, the last one at the end.

        Raises:
            StateError: the model ran several times, and it is not known which passes count; or a backward
                pass has freed one that counts.
        """
        return self.threads.now().passes_that_count(self.passes)

    def of(self, key: Key, indices: Iterable[int]) -> list[Tensor]:
        """Return the values of `key` in the last pass, one a block of `indices`."""
        return self.last.of(key, indices)

    def complete(self) -> bool:
        """Return whether every wanted value of the last pass has been read."""
        return self._is_complete(self.last)

    def missing(self) -> list[Slot]:
        """Return what the last pass should have delivered and did not."""
        return [slot for slot in self.slots if slot not in self.values]

    def find_replaced(self) -> str | None:
        """Return the name of a module that is read and stands no longer where it stood, or None."""
        return self._places.find_replaced()

    def recall(self, values: Iterable[Tensor], images: Tensor) -> None:
        """Stand as after a pass on `images` that read `values`, in the order of the slots."""
        passes = self.threads.now()
        passes.current = passes.current.recall(images)
        passes.current.values.update(zip(self.slots, values, strict=True))
        passes.skipped = None

    def clear(self, reason: str) -> None:
        """Forget this thread's passes; `reason` ends the sentence that says why there are none."""
        self.threads.now().clear(self.tower, reason)

    def remove(self) -> None:
        """Remove the hooks; what the last pass read stays."""
        self._hooks.remove()

    def _is_complete(self, one: ForwardPass) -> bool:
        return len(one.values) == len(self.slots)

    def _enter(self, delivered: Arguments) -> None:
        """Note what the tower is called with."""
        if not in_backward() and self.enabled:
            self.threads.now().entered = as_called(delivered)

    def _leave(self, _: Any) -> None:
        """Note that the tower has returned."""
        passes = self.threads.now()
        if not torch.compiler.is_compiling() and not in_backward() and passes.is_read:
            passes.current.is_running = False

    def _begin(self, delivered: Arguments) -> None:
        """Start a pass: the stem is about to run on the images."""
        if in_backward():
            return
        passes = self.threads.now()
        entered, passes.entered = passes.entered, None
        passes.is_read = False
        if not self.enabled:
            return
        if self.training_only and (reason := reason_to_skip(self.tower, passes)):
            passes.skipped = reason
            return
        if not torch.compiler.is_compiling():
            self._hooks.come_last()
        images = check_images(delivered)
        more = (
            more_arguments(self.tower, delivered, entered) if self.compared and self.training_only else ALONE
        )
        is_training = passes.drop_evaluations(self.tower)
        last, progress = passes.current, progress_of(self._weights)
        # An error, such as a full memory, has ended a pass if the tower is called anew before its end.
        is_cut = last.is_running and entered is not None
        if last.images is not None and self._is_complete(last) and not is_cut:
            last.settle()
            passes.follow(last, self.passes, progress)
        one = ForwardPass(self.tower, self._habits[is_training], images, more, is_training)
        one.note_inputs()
        one.autocast = autocast_now(images)
        one.progress = progress
        one.is_running = entered is not None and not torch.compiler.is_compiling()
        if self.notes_tokens and not torch.compiler.is_compiling():
            one.random_state = random_state(images.device)
        passes.current, passes.skipped, passes.is_read = one, None, True

    def _enter_block(self, delivered: Arguments) -> None:
        """Note the tokens that enter the first block, and the last one that is read."""
        args, kwargs = delivered
        if self.notes_tokens and self._is_reading(self.threads.now()) and not torch.compiler.is_compiling():
            tokens = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
            self.last.entering.append(None if tokens is None else tokens.detach().clone())

    def _is_reading(self, passes: ThreadPasses) -> bool:
        """Return whether a hook that fires now belongs to a pass that is read."""
        if in_backward():
            return False
        if not self.training_only:
            return self.enabled
        # A compiled block runs again for its backward pass as it ran, also once the penalty was taken.
        return passes.is_read and (torch.compiler.is_compiling() or passes.current.images is not None)

    def _pass_now(self, slot: Slot) -> ForwardPass | None:
        """Return the pass that a hook which fires now for `slot` belongs to, or None if it is not read."""
        passes = self.threads.now()
        if not self._is_reading(passes):
            return None
        if self.training_only and not torch.is_grad_enabled():
            if slot in passes.current.values:
                return None  # a part of the model that is run again, for itself
            raise StateError(
                "A block ran without gradients inside a training pass, so a penalty on it would be inert. "
                "This is what reentrant activation checkpointing does: use use_reentrant=False "
                "(timm: timm.layers.set_reentrant_ckpt(False))."
            )
        return passes.current

    def _store(self, slot: Slot, value: Tensor) -> None:
        """Keep the value of `slot` in this pass, or raise an error if there is one already."""
        one = self.last
        if slot in one.values and one.images is not None:
            refuse_to_run_twice(slot)
        one.keep(slot, value)
        if self.stop and self._is_complete(one):
            raise ReadingComplete
