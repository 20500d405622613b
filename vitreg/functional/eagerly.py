"""Run a function as it is written, also where a compiled function calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])


def eagerly(function: F) -> F:
    """Return `function` for `torch.compile` to leave alone: it ends the graph before the call.

    What looks at modules and hooks them has nothing to compile, and takes minutes to be traced.
    `torch.compiler.disable` does the same, but its result has no type.
    """
    return cast(F, torch.compiler.disable(function))
