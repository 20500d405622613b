"""At which steps, and of which pictures, a penalty is taken that is not taken of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

import torch
from torch import Tensor

from vitreg.errors import ArgumentError
from vitreg.penalties import Penalty, ReadingPenalty
from vitreg.types import Passes

_GOLDEN = 40503
"""2**16 times the golden ratio's fraction."""


def is_due(step: int, every: int) -> bool:
    """Return whether the penalty is taken at `step`: at one of each `every`, at changing places among them.

    The places follow the golden ratio, which is in phase with no rhythm that a training loop may have: each
    of its phases is penalised as often as the others. They depend on the step alone, so that all processes
    have the same, and a training that goes on has those that it would have had.
    """
    window, place = step // every, step % every
    return place == window * _GOLDEN % 2**16 * every // 2**16


def choice_of_pictures(step: int, fraction: float) -> Callable[[int], Tensor] | None:
    """Return what chooses the pictures of which the penalty is taken at `step`; None where that is all.

    Of a number of pictures it returns the indices of a `fraction`, at least one, in order. Each set of so
    many is as probable as any other. As with `is_due`, they depend on the step alone.
    """
    if fraction == 1:
        return None

    def choose(num_pictures: int) -> Tensor:
        drawn = torch.randperm(num_pictures, generator=torch.Generator().manual_seed(step))
        return drawn[: max(1, round(fraction * num_pictures))].sort().values

    return choose


def rhythm_in_words(every: int, fraction: float) -> str:
    """Return what is taken, as the end of a sentence; nothing where it is all of each step."""
    steps = f", every {every} steps" if every > 1 else ""
    return f"{steps}, {fraction:.0%} of the pictures" if fraction < 1 else steps


def check_rhythm(every: object, fraction: object, passes: object, penalties: Mapping[str, Penalty]) -> None:
    """Raise `ArgumentError` unless the penalties can be taken that often and of that part, see `attach`."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ArgumentError(f"every must be a whole number of at least 1, got {every!r}.")
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise ArgumentError(f"fraction must be a number above 0 and at most 1, got {fraction!r}.")
    if passes is not None and passes not in get_args(Passes):
        raise ArgumentError(f"passes must be one of {get_args(Passes)} or None, got {passes!r}.")
    whole = [n for n, p in penalties.items() if not (isinstance(p, ReadingPenalty) and p.is_mean)]
    if fraction < 1 and whole:
        raise ArgumentError(
            f"Expected penalties that are means over pictures, so that fraction={fraction:g} of a batch can "
            f"stand for all of it, found {', '.join(map(repr, whole))}. Attach that in a call of its own, "
            "without fraction; every= makes it cheaper, too."
        )
