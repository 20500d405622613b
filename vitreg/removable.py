"""What is put on a model and taken off again, by `remove()` or at the end of a `with` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")


class Removable(ABC):
    """A base of what `remove()` takes off a model, which a `with` block does at its end."""

    @abstractmethod
    def remove(self) -> None:
        """Take it off; calling it again does nothing."""

    def __enter__(self: T) -> T:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.remove()
