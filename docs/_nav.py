"""MkDocs hook: the methods stand in the navigation in the order of their cards; pictures have two modes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from _macros.methods import CARDS


def on_config(config: Any) -> Any:
    """Add each card behind the overview of the methods."""
    (methods,) = (section["Methods"] for section in config["nav"] if "Methods" in section)
    methods[1:] = [{card.title: f"methods/{name}.md"} for name, card in CARDS.items()]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Show a picture `NAME.png#both` as it is in light mode, and `NAME-dark.png` in the dark."""
    two = r"\1.png#only-light\2\n\1-dark.png#only-dark\2"
    return re.sub(r"^(!\[[^\]]*\]\([\w/-]+)\.png#both(\).*)$", two, markdown, flags=re.MULTILINE)
