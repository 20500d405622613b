"""Under which names penalties are attached to which towers now."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from torch import nn

from vitreg.errors import ArgumentError

_attached: weakref.WeakKeyDictionary[nn.Module, set[str]] = weakref.WeakKeyDictionary()


def refuse_taken(tower: nn.Module, names: Iterable[str]) -> None:
    """Raise `ArgumentError` if a penalty of one of these names is attached to `tower` already."""
    taken = _attached.get(tower, set()) & set(names)
    if taken:
        raise ArgumentError(
            f"{', '.join(sorted(map(repr, taken)))} is attached to this model already. Remove that "
            "attachment first (`attachment.remove()`), or name this one: target={'name': penalty}."
        )


def take(tower: nn.Module, names: Iterable[str]) -> set[str]:
    """Note that penalties of these names are attached to `tower`; return all names, to take them out of."""
    taken = _attached.setdefault(tower, set())
    taken |= set(names)
    return taken
