"""Copies of what is attached to a model: they are not attached, and leave the original so."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar


class InertCopies:
    """A base of what has hooks on a model, whose copies (`copy`, `deepcopy`, `pickle`) have none.

    Attributes:
        COPIED: the names of the attributes that a copy has, too.
    """

    COPIED: ClassVar[tuple[str, ...]] = ()

    _finalizer: weakref.finalize[..., Any] | None = None
    """Takes the hooks off; None in a copy."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.COPIED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def _take_off(self) -> None:
        """Take the hooks off; calling it again, or on a copy, does nothing."""
        if self._finalizer is not None:
            self._finalizer()
