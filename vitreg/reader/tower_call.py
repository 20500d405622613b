"""What a tower is called with beside the images."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._functorch import get_unwrapped, is_batchedtensor, is_functorch_wrapped_tensor

from vitreg.errors import UnsupportedModelError
from vitreg.types import Arguments, Tower

ALONE: Arguments = ((), {})
"""No arguments beside the images."""

_RANDOM = (random.Random, np.random.Generator, np.random.RandomState)

_DEPTH = 40
"""How many calls above the stem are searched for the method of the tower that was called."""


def check_images(delivered: Arguments) -> Tensor:
    """Return the images that a stem receives.

    Raises:
        UnsupportedModelError: it receives something else.
    """
    args, kwargs = delivered
    images = next(iter((*args, *kwargs.values())), None)
    if isinstance(images, Tensor) and _is_inside_vmap(images):
        raise UnsupportedModelError(
            "Expected a pass on a batch of images, found one inside torch.vmap, whose values exist in there "
            "alone. Call the model on the whole batch, or take the penalty in a pass of its own."
        )
    if not isinstance(images, Tensor) or images.dim() != 4:
        found = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise UnsupportedModelError(
            f"Expected a batch of images [b, c, height, width], found {found}. "
            "Give the model images instead of patches that were cut before."
        )
    return images


def _is_inside_vmap(tensor: Tensor) -> bool:
    while not torch.compiler.is_compiling() and is_functorch_wrapped_tensor(tensor):
        if is_batchedtensor(tensor):
            return True
        tensor = get_unwrapped(tensor)
    return False


def more_arguments(tower: Tower, stem: Arguments, call: Arguments | None) -> Arguments:
    """Return what a tower was called with beside the images, so that the source can be called with it, too.

    Args:
        tower: the tower.
        stem: what its stem receives.
        call: what it was called with itself, or None if one of its other methods was called.

    Raises:
        UnsupportedModelError: an argument that is trained, or tensors that a method was called with, of which
            it is not known how the source would be called with them.
    """
    if call is None:
        _refuse_arguments(tower, stem)
        return ALONE
    more = _beside_the_images(call)
    if any(isinstance(argument, Iterator) for argument in (*more[0], *more[1].values())):
        raise UnsupportedModelError(
            f"Expected {type(tower.module).__name__} to be called with arguments that its source can have, "
            "too, found an iterator, which can be read once. Make a list of it."
        )
    if any(tensor.requires_grad for tensor in tensors_in(more)):
        raise UnsupportedModelError(
            f"Expected {type(tower.module).__name__} to be called with arguments that are not trained, found "
            "one that requires a gradient: the source, which gets the same, would change with it. Make it a "
            "parameter of the model, or detach it."
        )
    return more


def as_called(argument: Any) -> Any:
    """Return an argument for a call of its own: a container, or random numbers, that a model may change."""
    if torch.compiler.is_compiling():  # which takes no such numbers, and has containers of its own
        return argument
    if isinstance(argument, torch.Generator):
        return argument.clone_state()
    if isinstance(argument, _RANDOM):
        return copy.deepcopy(argument)
    if type(argument) in (list, tuple):
        return type(argument)(map(as_called, argument))
    if type(argument) is dict:
        return {name: as_called(value) for name, value in argument.items()}
    return copy.copy(argument) if isinstance(argument, list | dict | set) else argument


def draws_numbers(argument: Any) -> bool:
    """Return whether random numbers are drawn from an argument, or from one inside it."""
    if isinstance(argument, list | tuple | dict):
        return any(map(draws_numbers, argument.values() if isinstance(argument, dict) else argument))
    return isinstance(argument, (torch.Generator, *_RANDOM))


def matters(argument: object) -> bool:
    """Return whether an argument says something; None and False are the usual defaults."""
    return argument is not None and argument is not False


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples, dictionaries and the attributes of other objects."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif hasattr(value, "__dict__") and not callable(value):
        yield from (part for part in vars(value).values() if isinstance(part, Tensor))


def _beside_the_images(call: Arguments) -> Arguments:
    """Return the arguments without the images: the first, or the first picture that is named."""
    args, kwargs = call
    if args:
        return args[1:], kwargs
    named = next((n for n, a in kwargs.items() if isinstance(a, Tensor) and a.dim() == 4), None)
    return (), {name: argument for name, argument in kwargs.items() if name != named}


def _refuse_arguments(tower: Tower, stem: Arguments) -> None:
    """Raise `UnsupportedModelError` if a method of the tower was called with more than images."""
    args, kwargs = stem
    more = (*args, *kwargs.values())[1:]
    if any(matters(argument) and not isinstance(argument, nn.Parameter) for argument in more):
        what, where = "further arguments", f"to {type(tower.stem).__name__}"
    else:
        if torch.compiler.is_compiling():
            return
        method, tensors = _running_method(tower.module)
        if len(tensors) < 2:
            return
        what, where = f"{len(tensors)} tensors", f"to {method}()"
    raise UnsupportedModelError(
        f"Expected a method of {type(tower.module).__name__} that is called with images alone, found {what} "
        f"{where}, such as masked positions, which the source would not get. Call the model itself with "
        "them: model(images, …) hands them on to the source."
    )


def _running_method(module: nn.Module) -> tuple[str, list[Tensor]]:
    """Return which method of `module` was called, and the tensors that it was called with."""
    found: tuple[str, list[Tensor]] = "", []
    frame = sys._getframe(1)
    for _ in range(_DEPTH):
        if frame.f_back is None:
            break
        frame = frame.f_back
        code = frame.f_code
        variable = bool(code.co_flags & 4) + bool(code.co_flags & 8)  # *args and **kwargs
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + variable]
        if names and frame.f_locals.get(names[0]) is module:
            found = code.co_name, list(tensors_in([frame.f_locals.get(name) for name in names[1:]]))
    return found
