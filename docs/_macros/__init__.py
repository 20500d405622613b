"""What pages of the site ask for by name, so that no text or table is written twice.

A page that begins with `render_macros: true` between two lines of dashes may say `{{ name(...) }}`.
"""

from __future__ import annotations

from typing import Any

from _macros import cards, command_line


def define_env(env: Any) -> None:
    """Give each macro to the pages; called by mkdocs-macros."""
    for module in (cards, command_line):
        for macro in module.MACROS:
            env.macro(macro)
