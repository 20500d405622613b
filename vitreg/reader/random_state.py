"""Random numbers that are drawn again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

RandomState = tuple[Tensor, Tensor | None]
"""Which random numbers are next: on the CPU, and on the device where that is a GPU."""


def random_state(device: torch.device) -> RandomState | None:
    """Return which random numbers are next on the CPU and on `device`, or None while a graph is captured."""
    if device.type != "cuda":
        return torch.get_rng_state(), None
    if torch.cuda.is_current_stream_capturing():
        return None
    return torch.get_rng_state(), torch.cuda.get_rng_state(device)


@contextmanager
def replay(state: RandomState | None, device: torch.device) -> Iterator[None]:
    """Draw the random numbers of `state` inside, and afterwards go on as if nothing had been drawn."""
    before = random_state(device)
    if state is not None:
        set_random_state(state, device)
    try:
        yield
    finally:
        if before is not None:
            set_random_state(before, device)


def are_equal(one: RandomState | None, other: RandomState | None) -> bool:
    """Return whether two states have the same numbers next."""
    if one is None or other is None:
        return one is other
    pairs = zip(one, other, strict=True)
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Let the random numbers of `state` be the next."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
