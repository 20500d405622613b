"""What the command line prints: its help, and the output of commands that are run while the page is made."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
from typing import Any
from unittest import mock

from vitreg.cli import main, make_parser

WIDTH = 84
"""Of a help text in characters: what fits beside the navigation."""


def command_help(name: str) -> str:
    """Return the help of a command, or of `vitreg` itself, as a block of text."""
    with _width(WIDTH + 2):  # argparse leaves two columns empty
        parser = make_parser()
        (commands,) = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        return _block((parser if name == "vitreg" else commands[name]).format_help())


def command_output(line: str, width: int = 88) -> str:
    """Return the command `vitreg LINE`, and what it prints in a terminal of `width` characters.

    Raises:
        RuntimeError: the command fails.
    """
    printed = io.StringIO()
    with _width(width), contextlib.redirect_stdout(printed):
        code = main(shlex.split(line))
    if code != 0:
        raise RuntimeError(f"`vitreg {line}` ended with {code}")
    return f"```sh\nvitreg {line}\n```\n\n{_block(printed.getvalue())}"


def _block(text: str) -> str:
    return f"``` {{.text .drawing}}\n{text.rstrip()}\n```\n"  # a drawing is not wrapped


def _width(characters: int) -> contextlib.AbstractContextManager[Any]:
    return mock.patch.dict(os.environ, {"COLUMNS": str(characters), "NO_COLOR": "1"})
