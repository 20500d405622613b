"""MkDocs hook: the cards of all methods stand in the navigation, in the order that their pages say."""

from __future__ import annotations

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
