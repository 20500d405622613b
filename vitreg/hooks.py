"""The only file that registers torch hooks: all of them or none, and each can be removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from vitreg.types import Tap


def _ignore(*_: Any) -> None:
    """Do nothing: what a hook becomes in a copied or unpickled model."""


def _inert() -> Callable[..., None]:
    return _ignore


class _Hook:
    """Hands what a tap delivers to a function.

    A copy of a hooked model (EMA by `copy.deepcopy`, `torch.save` of the module) must not write into the
    original's readings, so a copied or pickled hook is one that does nothing.
    """

    def __init__(self, receive: Callable[[Any], None]) -> None:
        self.receive = receive

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _ignore

    def __reduce__(self) -> Any:
        return _inert, ()


class _OutputHook(_Hook):
    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.receive(output)


class _InputHook(_Hook):
    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.receive((args, kwargs))


class Hooks:
    """Hooks on several taps, registered together or not at all."""

    def __init__(self, receivers: Iterable[tuple[Tap, Callable[[Any], None]]]) -> None:
        self._handles: list[RemovableHandle] = []
        try:
            for tap, receive in receivers:
                if tap.side == "input":
                    handle = tap.module.register_forward_pre_hook(_InputHook(receive), with_kwargs=True)
                else:
                    handle = tap.module.register_forward_hook(_OutputHook(receive))
                self._handles.append(handle)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove every hook; calling it again does nothing."""
        while self._handles:
            self._handles.pop().remove()
