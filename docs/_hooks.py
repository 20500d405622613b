"""MkDocs hooks: the methods in the navigation, pictures in two modes, and formulas as MathML.

Formulas become MathML when the site is built, so that pages need no script and no network.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

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


_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Return the page's HTML with each formula that arithmatex marked turned into MathML."""
    return _FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    tag, bracket, latex = match.groups()
    display = "inline" if bracket == "(" else "block"
    formula = convert(html.unescape(latex).strip(), display=display)
    formula = formula.replace("<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>')  # ‖ as high as ‖
    return f'<{tag} class="math-{display}">{formula}</{tag}>'
