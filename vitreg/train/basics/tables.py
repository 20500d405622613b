"""A table of text as Markdown, and rows of numbers as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any


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
    lines = [f"### {title}", "", "| " + " | ".join(names) + " |"]
    lines.append("|" + "|".join("---" if name in words else "--:" for name in names) + "|")
    lines += ["| " + " | ".join(texts) + " |" for texts in body]
    return "\n".join([*lines, "", *(f"- {note}" for note in below), ""])


def csv_of(kind: type, rows: Sequence[Any]) -> str:
    """Return rows of the dataclass `kind` as CSV, unrounded: one column per field, None left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(kind)]
    writer.writerow(names)
    writer.writerows(
        [["" if (value := getattr(row, name)) is None else value for name in names] for row in rows]
    )
    return text.getvalue()
