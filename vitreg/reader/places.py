"""Where the modules stand that are read."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from vitreg.names import plain_name


class Places:
    """The places of some modules inside another one, as they are now."""

    def __init__(self, inside: nn.Module, modules: Iterable[nn.Module]) -> None:
        self._inside = inside
        names = {id(module): name for name, module in inside.named_modules()}
        self._modules = {names[id(module)]: module for module in modules if id(module) in names}

    def find_replaced(self) -> str | None:
        """Return the name of a module that stands no longer where it stood, or None."""
        now: dict[str, set[int]] = {}
        for name, module in self._inside.named_modules(remove_duplicate=False):
            now.setdefault(plain_name(name), set()).add(id(module))
        for name, module in self._modules.items():
            if id(module) not in now.get(plain_name(name), ()):
                return name
        return None
