"""One value that is wanted of each pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vitreg.errors import StateError, UnsupportedModelError, in_words
from vitreg.functional.kept_tensors import kept_by_itself
from vitreg.hooks import eagerly
from vitreg.reader.forward_pass import ForwardPass, in_backward
from vitreg.types import Probe, Slot, Tap


class WantedValue:
    """One wanted value, read as soon as its last tap has delivered.

    Args:
        slot: which value.
        probe: how it is read.
        pass_now: returns the pass that a hook which fires now belongs to, or None if it is not read.
        store: receives the slot and the value.
    """

    def __init__(
        self,
        slot: Slot,
        probe: Probe,
        pass_now: Callable[[Slot], ForwardPass | None],
        store: Callable[[Slot, Tensor], None],
    ) -> None:
        check_taps(slot[0], probe.taps)
        self.slot = slot
        self.probe = probe
        self._pass_now = pass_now
        self._store = store

    def receivers(self) -> Iterator[tuple[Tap, Callable[[Any], None]]]:
        """Yield each tap with what takes what it delivers."""
        for key, tap in self.probe.taps.items():
            yield tap, self._receiver(key)

    def _receiver(self, key: str) -> Callable[[Any], None]:
        is_copied = key in self.probe.copied

        def receive(delivered: Any) -> None:
            one = self._pass_now(self.slot)
            if one is None:
                return
            one.watch_backward(delivered)
            seen = one.seen.setdefault(self.slot, {})
            seen[key] = delivered.clone() if is_copied else delivered
            if self.probe.either and self.slot in one.values:
                del one.seen[self.slot]  # another tap was first
            elif self.probe.either or len(seen) == len(self.probe.taps):
                with kept_by_itself():
                    value = self.probe.read(seen)
                del one.seen[self.slot]
                self._store(self.slot, _check_value(self.slot, value))

        return receive


def counters(
    probe: Probe, pass_now: Callable[[], ForwardPass | None]
) -> Iterator[tuple[Tap, Callable[[Any], None]]]:
    """Yield what notes the shape of the tokens that `probe` reads from one tap, as far as it reads any."""

    def count(key: str, delivered: Any) -> None:
        one = None if torch.compiler.is_compiling() else pass_now()
        if one is not None:
            with suppress(Exception):  # it shows no tokens: then nobody counts them
                one.leaving = probe.read({key: delivered}).shape

    if len(probe.taps) == 1:
        yield from ((tap, partial(count, key)) for key, tap in probe.taps.items())


@eagerly  # as a compiler does not know whether a backward pass runs
def refuse_to_run_twice(slot: Slot) -> None:
    """Raise `StateError` in a backward pass, otherwise `UnsupportedModelError`: `slot` was read already."""
    name, _, index = slot
    if in_backward():
        raise StateError(
            f"Expected the penalty before the backward pass, found that this one runs block {index} again, "
            "which is compiled and checkpointed, before a penalty was taken. Add the penalty to the loss "
            "before loss.backward(); for steps that take none, remove the attachment and attach later."
        )
    raise UnsupportedModelError(
        f"Expected each block to run once in a forward pass; what {name} of block {index} is read "
        "from ran twice (blocks or norms that are shared, or run in a loop). Read other blocks."
    )


def _check_value(slot: Slot, value: object) -> Tensor:
    """Return the value, which an extractor of somebody's may have read as something else."""
    if isinstance(value, Tensor):
        return value
    name, _, index = slot
    raise UnsupportedModelError(
        f"Expected {name} of block {index} to be read as a tensor, found {in_words(value)}. Return one from "
        "the extractor's probe."
    )


def check_taps(what: str, taps: Mapping[str, Tap]) -> None:
    """Raise `UnsupportedModelError` if two taps are at one place, which would deliver twice for one."""
    if len({(id(tap.module), tap.side) for tap in taps.values()}) < len(taps):
        raise UnsupportedModelError(
            f"{what} is read from several modules, found one that stands for two of them, such as one "
            "norm for queries and keys. Give each its own, or read block_output."
        )
