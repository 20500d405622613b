"""A table of text, for the terminal and as Markdown, and rows of numbers as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import HORIZONTALS
from rich.markup import escape
from rich.table import Table

from vitreg.wording import cell, harmless_markdown, in_markdown


@dataclass(frozen=True)
class TextTable:
    """A table by its columns, without those that no row fills.

    Attributes:
        columns: the cells of each column, by its heading.
        words: the columns that are aligned to the left; the others are numbers.
        brief: columns that are left out in the terminal where they say one thing in all rows.
        groups: columns that rows of a group have in common; the terminal shows a line behind each group.
    """

    columns: Mapping[str, Sequence[str]]
    words: Collection[str]
    brief: Collection[str] = ()
    groups: Collection[str] = ()

    def __post_init__(self) -> None:
        filled = {name: cells for name, cells in self.columns.items() if any(cells)}
        object.__setattr__(self, "columns", filled)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The cells of each row."""
        return list(zip(*self.columns.values(), strict=True))

    def rich(self) -> Table:
        """Return the table for the terminal."""
        drawn = Table(box=HORIZONTALS, pad_edge=False, padding=0)
        shown = {
            name: cells
            for name, cells in self.columns.items()
            if name not in self.brief or len({*filter(None, cells)}) > 1
        }
        for name in shown:
            drawn.add_column(name, justify="left" if name in self.words else "right", overflow="fold")
        keys = list(zip(*(self.columns[name] for name in self.groups if name in self.columns), strict=True))
        for place, cells in enumerate(zip(*shown.values(), strict=True)):
            is_last = bool(keys) and keys[place + 1 : place + 2] != [keys[place]]
            drawn.add_row(*map(escape, cells), end_section=is_last)
        return drawn

    def markdown(self, title: str, below: Sequence[str]) -> str:
        """Return the table as GitHub's Markdown, with a heading, and what is to be said below it."""
        lines = [f"### {harmless_markdown(title)}", "", "| " + " | ".join(self.columns) + " |"]
        lines.append("|" + "|".join("---" if name in self.words else "--:" for name in self.columns) + "|")
        columns = [
            map(in_markdown, cells) if name in self.words else cells for name, cells in self.columns.items()
        ]
        lines += ["| " + " | ".join(cells) + " |" for cells in zip(*columns, strict=True)]
        return "\n".join([*lines, "", *(f"- {harmless_markdown(note)}" for note in below), ""])


def csv_of(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return lines that have the same columns as CSV, unrounded; None is left empty, no text a formula."""
    cells = [[cell(value) if isinstance(value, str) else value for value in line.values()] for line in lines]
    return csv_text([list(lines[0]), *cells])


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows of cells as CSV, as they are."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def number(value: float | None, *, digits: int = 1, std: float | None = None) -> str:
    """Return a number as a cell, with its deviation where there is one; nothing for None."""
    text = "" if value is None else f"{value:.{digits}f}"
    return text if std is None else f"{text} ± {std:.{digits}f}"


def signed(
    value: float | None, *, digits: int = 1, within: tuple[float | None, float | None] = (None, None)
) -> str:
    """Return a number as a cell with its sign, and the interval that it is `within`; nothing for None."""
    if value is None:
        return ""
    text, (low, high) = f"{value:+.{digits}f}", within
    return text if low is None or high is None else f"{text} [{low:+.{digits}f}, {high:+.{digits}f}]"
