"""At which steps a penalty is taken that is not taken at all of them."""

from __future__ import annotations

from typing import get_args

from vitreg.errors import ArgumentError
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


def check_rhythm(every: object, passes: object) -> None:
    """Raise `ArgumentError` unless `every` is a whole number of at least 1, and `passes` known."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ArgumentError(f"every must be a whole number of at least 1, got {every!r}.")
    if passes is not None and passes not in get_args(Passes):
        raise ArgumentError(f"passes must be one of {get_args(Passes)} or None, got {passes!r}.")
