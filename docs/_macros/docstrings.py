"""What a method's docstring says: its sentence, its formula with the words of its symbols, and its source."""

from __future__ import annotations

import inspect
import re
import textwrap

from _macros.methods import card

_SECTION = re.compile(r"^(?:Args|Attributes|Returns|Raises):$")
_LINKS = (
    (re.compile(r"arXiv (\d{4}\.\d{5})"), r"[\g<0>](https://arxiv.org/abs/\1)"),
    (re.compile(r"(?<!\()https://([^\s/]+)[^\s,)]*[^\s,).]"), r"[\1](\g<0>)"),
)
"""How an address in the text of a source becomes a link."""


def method_sentence(name: str) -> str:
    """Return what a method does, in the sentence that its docstring begins with."""
    return _paragraphs(name)[0]


def method_formula(name: str) -> str:
    """Return the formula with the words of its symbols; without a formula, what the docstring lists.

    The words are the paragraph behind the formula if it begins with a small letter, and the one before it if
    it leads up to it with a colon.

    Raises:
        ValueError: the docstring has neither a formula nor a list.
    """
    paragraphs = _paragraphs(name)
    if formulas := [index for index, paragraph in enumerate(paragraphs) if paragraph.startswith("$$")]:
        first, behind = formulas[0], formulas[-1] + 1
        before = first - 1 if paragraphs[first - 1].endswith(":") else first
        after = behind + 1 if any(p[0].islower() for p in paragraphs[behind : behind + 1]) else behind
        return "\n\n".join(paragraphs[before:after])
    lists = [paragraph for paragraph in paragraphs if paragraph.startswith("- ")]
    if not lists:
        raise ValueError(f"expected a formula $$…$$ or a list in the docstring of {name!r}, found neither")
    return "There is no formula: a name says what is trained.\n\n" + "\n\n".join(lists)


def method_source(name: str) -> str:
    """Return the paper that a method is from, with a link.

    Raises:
        ValueError: the docstring names no source, or one without an arXiv number or an address.
    """
    sources = [p for p in _paragraphs(name) if p.startswith("Source: ")]
    if len(sources) != 1:
        raise ValueError(f"expected one paragraph 'Source: …' in the docstring of {name!r}, found {sources}")
    text = " ".join(sources[0].removeprefix("Source: ").split())
    linked = text
    for address, link in _LINKS:
        linked = address.sub(link, linked)
    if linked == text:
        raise ValueError(f"expected an arXiv number or an address in the source of {name!r}, found {text!r}")
    return linked


def _paragraphs(name: str) -> list[str]:
    """Return the docstring's paragraphs, without its lists of arguments and of errors."""
    text = inspect.getdoc(card(name).thing) or ""
    return [
        textwrap.dedent(paragraph)
        for paragraph in re.split(r"\n\s*\n", text.strip())
        if not _SECTION.match(paragraph.splitlines()[0]) and not paragraph.startswith(" ")
    ]
