"""What pages of the site ask for by name, so that no text or table is written twice.

A page that begins with `render_macros: true` between two lines of dashes may say `{{ name(...) }}`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _macros import cards, command_line, costs, differences, docstrings, from_probe, results

_MODULES = (cards, command_line, costs, differences, docstrings, from_probe, results)


def macros() -> dict[str, Callable[..., Any]]:
    """Return what the pages may ask for: the public functions of each file, but for that of the cards."""
    return {
        name: macro
        for module in _MODULES
        for name, macro in vars(module).items()
        if getattr(macro, "__module__", "") == module.__name__ and not name.startswith("_")
    }


def define_env(env: Any) -> None:
    """Give each macro to the pages; called by mkdocs-macros."""
    for macro in macros().values():
        env.macro(macro)
