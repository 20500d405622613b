"""The places where the code departs from a paper: the comments `NOTE[DIFF]`, collected from the source."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import NamedTuple

from _macros.methods import CARDS, ROOT, card

FOLDERS = ("vitreg", "recipes", "benchmarks")
MARK = "# NOTE[DIFF]: "
_NOTE = re.compile(rf"^ *{re.escape(MARK)}(.*(?:\n *#(?! NOTE).*)*)", re.MULTILINE)


class Difference(NamedTuple):
    """A departure: the file, the function, class or constant that it is in or above, and what it says."""

    file: str
    where: str
    text: str

    def concerns(self, name: str) -> bool:
        """Return whether it is shown on a card, which names files, and functions as `file:function`."""
        return bool({self.file, f"{self.file}:{self.where}"} & {*card(name).files})


def method_differences(name: str) -> str:
    """Return the differences that concern a method, as a list."""
    found = [d for d in all_notes() if d.concerns(name)]
    if not found:
        return f"None: no `NOTE[DIFF]` in the code concerns {card(name).title}."
    return "\n".join(f"- `{d.where}` in `{d.file}`: {_as_markdown(d.text)}" for d in found)


def all_differences() -> str:
    """Return every difference, by file, with the cards that show it."""
    lines: list[str] = []
    for file in dict.fromkeys(d.file for d in all_notes()):
        notes = [d for d in all_notes() if d.file == file]
        cards = [name for name in CARDS if any(d.concerns(name) for d in notes)]
        shown = ", ".join(f"[{CARDS[name].title}]({name}.md)" for name in cards)
        lines += ["", f"`{file}`{f' ({shown})' if shown else ''}", ""]
        lines += [f"- `{d.where}`: {_as_markdown(d.text)}" for d in notes]
    return "\n".join(lines).strip()


@cache
def all_notes() -> tuple[Difference, ...]:
    """Return all differences, by file and line."""
    return tuple(
        difference
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if MARK in (text := path.read_text(encoding="utf-8"))
        for difference in differences_in(text, path.relative_to(ROOT).as_posix())
    )


def differences_in(text: str, file: str) -> list[Difference]:
    """Return the differences that the Python file `file` with this text marks.

    One begins with a comment `# NOTE[DIFF]: …` and goes on in the comments right below it.
    """
    tree = ast.parse(text)
    return [
        Difference(
            file, _where(tree, 1 + text.count("\n", 0, note.start())), re.sub(r"\n *# *", " ", note[1])
        )
        for note in _NOTE.finditer(text)
    ]


def _where(tree: ast.Module, row: int) -> str:
    """Return the dotted name of what encloses a line; outside of all, of what the line is in or above."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    around = [n for n in ast.walk(tree) if isinstance(n, kinds) and n.lineno <= row <= (n.end_lineno or 0)]
    if around:
        return ".".join(node.name for node in around)  # outer ones come first in a walk
    below = next(node for node in tree.body if (node.end_lineno or 0) >= row)
    if isinstance(below, kinds):
        return below.name
    targets = below.targets if isinstance(below, ast.Assign) else [getattr(below, "target", None)]
    return next((target.id for target in targets if isinstance(target, ast.Name)), "the file")


def _as_markdown(text: str) -> str:
    """Return a comment with what Markdown would take for itself written out, outside of `code`."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", p) for p in parts)
