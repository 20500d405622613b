"""Registries: by name for extractors and penalties, by class for families. Duplicates are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from torch import nn

from vitreg.errors import ArgumentError
from vitreg.wording import near

T = TypeVar("T")
R = TypeVar("R")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the nearest of `known`, or all of them if none is near."""
    known = sorted(known)
    return near(name, known, otherwise=f"Known: {', '.join(map(repr, known))}.", at_most=1)


class Registry(Generic[T]):
    """Things found by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        """Register `entry` under `name`; raises `ArgumentError` if the name is taken."""
        if not isinstance(name, str) or not name.isidentifier():
            raise ArgumentError(f"A {self.kind}'s name must be a Python identifier, got {name!r}.")
        if name in self._entries:
            raise ArgumentError(
                f"The {self.kind} {name!r} is already registered ({self._entries[name]!r}). "
                "Choose another name."
            )
        self._entries[name] = entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise ArgumentError(f"There is no {self.kind} {name!r}. {suggest(name, self._entries)}")
        return self._entries[name]

    def name_of(self, entry: object) -> str | None:
        """Return the name under which `entry` is registered, or None."""
        return next((name for name, registered in self._entries.items() if registered is entry), None)

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        return sorted(self._entries)


_HARMLESS = {"reset_parameters", "init_weights", "extra_repr"}


def _methods(cls: type[nn.Module]) -> set[str]:
    """Return the names of the methods of `cls` that may matter to what it computes."""
    return {
        name for name, value in vars(cls).items() if callable(value) and not name.startswith("__")
    } - _HARMLESS


def _is_changed(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Return whether `module` may compute something else than `cls` does, though it is one.

    So it is if a subclass, or the module itself, has its own of any method of `cls`, or if somebody has put
    another `forward` into `cls`.
    """
    methods = _methods(cls)
    between = type(module).__mro__[: type(module).__mro__.index(cls)]
    overridden = any(name in vars(place) for name in methods for place in (*between, module))
    foreign = cls.forward.__qualname__ != f"{cls.__qualname__}.forward" and "forward" in vars(cls)
    return overridden or foreign or type(module).forward is not cls.forward


class ClassRegistry(Generic[R]):
    """Functions found by the class of a module, through its MRO.

    With `own_forward` an entry holds for a module only while the methods are those of the registered class:
    a subclass that overrides one may compute something else.
    """

    def __init__(self, kind: str, *, own_forward: bool) -> None:
        self.kind = kind
        self.own_forward = own_forward
        self._entries: dict[type[nn.Module], Callable[..., R]] = {}

    def register(self, cls: type[nn.Module]) -> Callable[[Callable[..., R]], Callable[..., R]]:
        """Return a decorator that registers a function for `cls` and its subclasses."""
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise ArgumentError(f"A {self.kind} is registered for a subclass of nn.Module, got {cls!r}.")
        if cls in self._entries:
            raise ArgumentError(f"A {self.kind} for {cls.__module__}.{cls.__name__} is already registered.")

        def decorate(function: Callable[..., R]) -> Callable[..., R]:
            self._entries[cls] = function
            return function

        return decorate

    def class_of(self, module: nn.Module) -> type[nn.Module] | None:
        """Return the registered class that holds for `module`: its own or its nearest base, or None.

        FSDP2 shards a module by giving it a subclass, which this sees through.
        """
        for cls in type(module).__mro__:
            if cls in self._entries:
                return None if self.own_forward and _is_changed(module, cls) else cls
        return None

    def is_own(self, module: nn.Module) -> bool:
        """Return whether a registered class, or a subclass of the same library, says what `module` computes.

        A subclass from elsewhere that overrides a method may compute something else.
        """
        for cls in type(module).__mro__:
            if cls in self._entries:
                between = type(module).__mro__[: type(module).__mro__.index(cls)]
                library = cls.__module__.partition(".")[0]
                foreign = [place for place in between if place.__module__.partition(".")[0] != library]
                return not any(name in vars(place) for name in _methods(cls) for place in foreign)
        return False

    def find(self, module: nn.Module) -> Callable[..., R] | None:
        """Return the function registered for the class that holds for `module`, or None."""
        cls = self.class_of(module)
        return None if cls is None else self._entries[cls]

    def names(self) -> list[str]:
        """Return the registered classes' qualified names, sorted."""
        return sorted(f"{cls.__module__}.{cls.__qualname__}" for cls in self._entries)
