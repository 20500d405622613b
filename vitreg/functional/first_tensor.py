"""The tensor that a module returned, alone or in front of other things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitreg.errors import UnsupportedModelError, in_words


def first_tensor(returned: Any, *, what: str, returned_by: str, remedy: str) -> Tensor:
    """Return what a module returned, or the first of a tuple or list whose other parts are something else.

    Blocks and attentions return tokens alone, or a tuple of tokens and attention weights. Several tensors of
    tokens, such as those of several crops, have no first one that would stand for all.

    Args:
        returned: what was returned.
        what: what is read, for an error.
        returned_by: what returned it, for an error.
        remedy: a sentence that says what to do, for an error.

    Raises:
        UnsupportedModelError: it is no tensor, and has no first one.
    """
    if isinstance(returned, Tensor):
        return returned
    parts = list(returned) if isinstance(returned, tuple | list) else []
    if parts and isinstance(parts[0], Tensor):
        first = parts[0]
        alike = [part for part in parts if isinstance(part, Tensor) and _is_alike(part, first)]
        if len(alike) == 1:
            return first
        found = f"{len(alike)} tensors such as {in_words(first)}"
    elif isinstance(returned, Mapping):
        found = f"{type(returned).__name__} with {', '.join(map(str, returned)) or 'nothing'}"
    else:
        found = in_words(returned)
    raise UnsupportedModelError(
        f"{what} is one tensor, alone or first in a tuple; {returned_by} returned {found}. {remedy}"
    )


def _is_alike(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are tokens of the same width."""
    return one.dim() == other.dim() and one.shape[-1:] == other.shape[-1:]
