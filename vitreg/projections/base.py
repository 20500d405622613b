"""What a projection is, and their registry. It says by how much each weight is pulled back to its start."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from vitreg.errors import ArgumentError
from vitreg.functional.shifts import Shifts
from vitreg.registry import Registry

State = dict[str, Tensor]
"""What a projection remembers of one parameter, by name."""


@dataclass(frozen=True, kw_only=True)
class Projection(ABC):
    """The base of all projections: after a step of the optimiser, weights move back by a share of the way."""

    reads_gradient: ClassVar[bool] = False
    """Whether `before` is called, which costs time."""

    @property
    def name(self) -> str:
        """The registered name."""
        return projections.name_of(type(self)) or type(self).__name__.lower()

    def selects(self, name: str, parameter: Tensor) -> bool:
        """Return whether the parameter called `name` is projected; by default each is."""
        return True

    def before(self, shifts: Shifts, gradients: Sequence[Tensor], states: Sequence[State]) -> Any:
        """Return what `shares` needs to know of the moment before the step.

        Args:
            shifts: θ − θ₀ of several parameters before the step.
            gradients: their gradients, of the loss that falls.
            states: what is remembered of each; it is not to be changed here, as the step may be skipped.
        """
        raise NotImplementedError(f"{type(self).__name__} reads gradients and has no method before().")

    @abstractmethod
    def shares(self, shifts: Shifts, before: Any, states: Sequence[State]) -> Sequence[Tensor]:
        """Return by what share of the way each parameter is pulled back, [] or one a row, from 0 to 1.

        Args:
            shifts: θ' − θ₀ of several parameters after the step.
            before: what `before` returned for them.
            states: what is remembered of each, for ever; to be written to.
        """


def check_radius(radius: object, *, name: str = "radius") -> None:
    """Raise `ArgumentError` unless `radius` is a number of at least 0; infinity is one."""
    is_number = isinstance(radius, int | float) and not isinstance(radius, bool)
    if not is_number or math.isnan(radius) or radius < 0:  # type: ignore[arg-type, operator]
        raise ArgumentError(f"{name} must be a number of at least 0, got {radius!r}.")


def check_share(value: object, *, name: str) -> None:
    """Raise `ArgumentError` unless `value` is a number from 0 to 1."""
    check_radius(value, name=name)
    if value > 1:  # type: ignore[operator]
        raise ArgumentError(f"{name} must be a number from 0 to 1, got {value!r}.")


projections: Registry[type[Projection]] = Registry("projection")

P = TypeVar("P", bound=type[Projection])


def register_projection(name: str) -> Callable[[P], P]:
    """Return a decorator that registers a projection class, so that `project(…, name)` finds it.

    Raises:
        ArgumentError: the name is taken, or what is decorated is no `Projection` class.
    """

    def decorate(cls: P) -> P:
        if not (isinstance(cls, type) and issubclass(cls, Projection)):
            raise ArgumentError(f"A projection derives from vitreg.Projection, got {cls!r}.")
        projections.add(name, cls)
        return cls

    return decorate


def list_projections() -> list[str]:
    """Return the names of the registered projections, sorted."""
    return projections.names()
