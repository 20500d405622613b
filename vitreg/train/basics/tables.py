"""A table of text as Markdown, and rows of numbers as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

from vitreg.wording import cell, harmless_markdown, in_markdown


def markdown(
    names: Sequence[str],
    body: Sequence[Sequence[str]],
    *,
    words: Collection[str],
    title: str,
    below: Sequence[str],
) -> str:
    """Return a table as GitHub's Markdown, with a heading, and what is to be said below it.

    `names` are the headings, `body` the cells of each row; the columns `words` are aligned to the left, the
    others, which are numbers, to the right.
    """
    lines = [f"### {harmless_markdown(title)}", "", "| " + " | ".join(names) + " |"]
    lines.append("|" + "|".join("---" if name in words else "--:" for name in names) + "|")
    for texts in body:
        shown = [
            in_markdown(text) if name in words else text for name, text in zip(names, texts, strict=True)
        ]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join([*lines, "", *(f"- {harmless_markdown(note)}" for note in below), ""])


def csv_of(kind: type, rows: Sequence[Any]) -> str:
    """Return rows of the dataclass `kind` as CSV, unrounded: one column per field, None left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(kind)]
    writer.writerow(names)
    writer.writerows([[_cell(getattr(row, name)) for name in names] for row in rows])
    return text.getvalue()


def _cell(value: Any) -> Any:
    return "" if value is None else cell(value) if isinstance(value, str) else value
