"""The methods that have a card: what the head of each page in `docs/methods` says of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import vitreg

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "methods"


class Card(NamedTuple):
    """A method with a page of its own.

    Attributes:
        title: its name, as a heading.
        thing: its class or function; sentence, formula and source are in its docstring.
        api: its place in the API.
        rows: what it is called in the tables of the paper and in ours.
        beside: methods that these tables show beside it, next to plain fine-tuning.
        paper: the paper's table that has these rows, a file of recipes/paper; nothing where it has none.
        holds: what it keeps, in a few words.
        first: when to try it first, in a sentence.
        steps: what its steps are called in benchmarks/results.
        reads: the extractor that it reads, where it is no penalty that says so itself.
        files: the files, or `file:function`, whose departures from the paper (`NOTE[DIFF]`) concern it.
    """

    title: str
    thing: Callable[..., Any]
    api: str
    rows: tuple[str, ...]
    paper: str = ""
    holds: str = ""
    first: str = ""
    steps: tuple[str, ...] = ()
    reads: str = ""
    beside: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def _read(page: Path) -> tuple[int, Card]:
    """Return a page's place in the order, and its card, from the head of the page."""
    _, head, text = page.read_text(encoding="utf-8").split("---\n", 2)
    fields = yaml.safe_load(head)["card"]
    order, thing = fields.pop("order"), getattr(vitreg, fields.pop("thing"))
    title = next(line for line in text.splitlines() if line.startswith("# ")).removeprefix("# ")
    lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return order, Card(title, thing, **lists)


_PAGES = {page.stem: _read(page) for page in PAGES.glob("*.md") if page.stem != "index"}
CARDS = {name: of for name, (order, of) in sorted(_PAGES.items(), key=lambda one: (one[1][0], one[0]))}
"""The cards by the name of their page, in the order of the site."""


def card(name: str) -> Card:
    """Return the card of a page.

    Raises:
        KeyError: there is no such card.
    """
    if name not in CARDS:
        raise KeyError(f"expected a method with a card ({', '.join(CARDS)}), found {name!r}")
    return CARDS[name]
