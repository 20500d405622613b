"""Functions that hang on modules, copied with what they remember.

`copy.deepcopy` takes a function as it is: a forward, a hook or a patch in a copied model would go on
computing with the modules and weights of the model that it was made for.
"""

from __future__ import annotations

import copy
import functools
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def copy_functions(copied: nn.Module, memo: dict[int, Any]) -> list[Tensor | nn.Module]:
    """Let the functions on the modules of a copy refer to that copy.

    What else they remember, such as the weights of an adapter in a hook, is copied too.

    Args:
        copied: what `copy.deepcopy` has returned, with `memo`.
        memo: the copy of each object by its identity.

    Returns:
        the tensors and modules among that, which are no part of `copied`.
    """
    inside = {id(part) for part in (*copied.modules(), *copied.parameters(), *copied.buffers())}
    bound = _Bound(memo)
    for part in copied.modules():
        for name, value in list(vars(part).items()):
            if name in _HOOKS:
                for key, hook in value.items():
                    value[key] = bound(hook)
            elif isinstance(value, FunctionType | MethodType | functools.partial):
                vars(part)[name] = bound(value)
    return [value for value in bound.copied if id(value) not in inside]


def move(part: Tensor | nn.Module, like: Tensor) -> None:
    """Move what a function refers to to the device and floating-point type of `like`."""
    if isinstance(part, nn.Module):
        part.to(device=like.device, dtype=like.dtype)
    else:
        part.data = part.data.to(like.device, like.dtype if part.is_floating_point() else None)


class _Bound:
    """Returns functions that are bound to copies."""

    def __init__(self, memo: dict[int, Any]) -> None:
        self.memo = memo
        self.copied: list[Tensor | nn.Module] = []
        self._alive: list[Any] = []  # an identity is of use while its object lives

    def __call__(self, value: Any) -> Any:
        if id(value) in self.memo:
            return self.memo[id(value)]
        if isinstance(value, nn.Module | Tensor):
            self.copied.append(copy.deepcopy(value, self.memo))
            return self.copied[-1]
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            return MethodType(self(value.__func__), self(value.__self__))
        if isinstance(value, functools.partial):
            named = {name: self(argument) for name, argument in value.keywords.items()}
            return functools.partial(self(value.func), *map(self, value.args), **named)
        if type(value) is tuple:
            return tuple(map(self, value))
        if type(value) is list:
            items: list[Any] = []
            self._remember(value, items)
            items.extend(map(self, value))
            return items
        if type(value) is dict:
            named = {}
            self._remember(value, named)
            named.update((key, self(item)) for key, item in value.items())
            return named
        return value

    def _function(self, function: FunctionType) -> FunctionType:
        cells = function.__closure__ or ()
        if not cells and not function.__defaults__ and not function.__kwdefaults__:
            return function
        new = FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            closure=tuple(CellType() for _ in cells) if cells else None,
        )
        self._remember(function, new)
        functools.update_wrapper(new, function)
        for empty, cell in zip(new.__closure__ or (), cells, strict=True):
            if cell != CellType():  # a name that has no value yet
                empty.cell_contents = self(cell.cell_contents)
        new.__defaults__ = self(function.__defaults__)
        new.__kwdefaults__ = self(function.__kwdefaults__)
        del new.__dict__["__wrapped__"]
        return new

    def _remember(self, value: Any, new: Any) -> None:
        self.memo[id(value)] = new
        self._alive.append(value)
