"""List the models that vitreg was tested with, and what can be read in each.

`params` is the number of parameters and `px` the side of the input in pixels.
Classes, of which there are models of any size, have neither. `outputs` is how many
of the extractors beside attention can be read; `--json` names them. `error` is the
largest difference between the logits that were read and those that enter the
model's own softmax, in float32 on a CPU."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase

from vitreg.cli.command import Command
from vitreg.cli.support import SupportRow, support_rows
from vitreg.wording import near

_EXAMPLE = """For example

  vitreg models
  vitreg models dinov2 reg --sort params
  vitreg models 'swin*tiny*' --library timm
"""

HEADER = ("library", "name", "params", "px", "[CLS]", "whose attention", "outputs", "error")
SORTS = ("name", "library", "params", "size", "class_token", "error")
_NO_TERMINAL = 100_000
_NARROWEST_NOTE = 24


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options to its parser."""
    pattern = "part of the name, or the whole name with wildcards; all patterns must match"
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help=pattern)
    libraries = sorted({row.library for row in support_rows()})
    parser.add_argument(
        "--library",
        choices=libraries,
        metavar="NAME",
        help=f"models of one library only: {', '.join(libraries)}",
    )
    parser.add_argument("--sort", choices=SORTS, help="order of the rows; rows without a value come last")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(options: Namespace) -> int:
    """Print the rows whose names match; return 1 if there are none."""
    rows = [row for row in support_rows() if options.library in (None, row.library)]
    found = [row for row in rows if all(_matches(row.name, pattern) for pattern in options.patterns)]
    if not found:
        wanted = " ".join(options.patterns)
        hint = near(wanted, {row.name for row in rows}, otherwise="`vitreg models` lists all of them.")
        where = f" of {options.library}" if options.library else ""
        print(f"No model{where} in the support table matches {wanted!r}. {hint}", file=sys.stderr)
        return 1
    if options.sort:
        found.sort(key=lambda row: (getattr(row, options.sort) in (None, ""), getattr(row, options.sort)))
    if options.json:
        print(json.dumps([asdict(row) for row in found], indent=2, ensure_ascii=False))
        return 0
    width = shutil.get_terminal_size((_NO_TERMINAL, 24)).columns
    print("\n".join(lines(found, width)))
    attention, outputs = sum(bool(row.queries) for row in found), sum(bool(row.outputs) for row in found)
    models = "1 model" if len(found) == 1 else f"{len(found)} models"
    print(f"\n{models}; attention can be read in {attention}, outputs in {outputs}.")
    return 0


def _matches(name: str, pattern: str) -> bool:
    name, pattern = name.lower(), pattern.lower()
    return fnmatchcase(name, pattern) if any(c in pattern for c in "*?[") else pattern in name


def lines(rows: Sequence[SupportRow], width: int) -> list[str]:
    """Return the rows as aligned lines, without columns that are empty.

    A note stands at the end, or below where `width` is too small.
    """
    table = [
        (
            *(r.library, r.name),
            "" if r.params is None else f"{r.params / 1e6:6.1f}M",
            "" if r.size is None else f"{r.size:3}",
            *(r.class_token, r.queries, r.outputs_in_words),
            "" if r.error is None else f"{r.error:.1e}",
        )
        for r in rows
    ]
    columns = [column for column in zip(HEADER, *table, strict=True) if any(column[1:])]
    header, *cells = zip(*columns, strict=True)
    widths = [max(map(len, column)) for column in columns]
    room = width - sum(widths) - 2 * len(widths)
    has_notes = any(row.note for row in rows)
    is_beside = room >= min(_NARROWEST_NOTE, max(len(row.note) for row in rows))
    indent = " " * (width - room if is_beside else 4)
    written = [_line([*header, "note"] if has_notes and is_beside else header, widths)]
    for row, cell in zip(rows, cells, strict=True):
        note = textwrap.wrap(row.note, max(width - len(indent), _NARROWEST_NOTE), break_long_words=False)
        if is_beside:
            written.append(_line([*cell, *note[:1]], widths))
            note = note[1:]
        else:
            written.append(_line(cell, widths))
        written += [indent + line for line in note]
    return written


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)]
    return "  ".join([*padded, *cells[len(widths) :]]).rstrip()


COMMAND = Command(__doc__, _EXAMPLE, add_options, run)
