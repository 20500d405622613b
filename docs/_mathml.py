"""MkDocs hook: formulas become MathML when the site is built, so that pages need no script and no network."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

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
