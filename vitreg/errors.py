"""What can go wrong: each error says what was expected, what was found and what to do."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class VitregError(Exception):
    """The base of every error that vitreg raises on purpose."""


class ArgumentError(VitregError, ValueError):
    """An argument has a wrong type, a wrong value or an unknown name."""


class UnsupportedModelError(VitregError, TypeError):
    """The model, or a part of it, is not one that vitreg knows how to read."""


class MismatchError(VitregError, ValueError):
    """The model and its source differ where they have to agree."""


class StateError(VitregError, RuntimeError):
    """A call came at a moment when it has no meaning, such as a penalty before a forward pass."""


class InputError(VitregError):
    """A file, a folder or an option cannot be used; the message is one line: expected, found, remedy."""


class MissingLibraryError(VitregError, ImportError):
    """A library that only an extra of vitreg installs is missing; the message has the pip command."""


def import_library(name: str, otherwise: str) -> Any:
    """Return the library `name`, which not everybody has installed.

    Raises:
        InputError: It is missing; `otherwise` says what needs it and how it is installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(otherwise) from error


def in_words(value: object) -> str:
    """Return what a value is, for an error: the shape and type of a tensor, the type of anything else."""
    from torch import Tensor  # here, as most who import this file need no torch

    if isinstance(value, Tensor):
        return f"{list(value.shape)} of {value.dtype}"
    return type(value).__name__
