"""The command line `vitreg`, for what needs no code; a file beside this one for each command."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from vitreg.cli.parser import make_parser
from vitreg.errors import VitregError
from vitreg.wording import plain_lines

__all__ = ["main", "make_parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    0: done; 1: nothing was found, or a check failed; 2: refused, with one message on standard error. What is
    no refusal but a mistake in vitreg itself keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console without × shows ?
    try:
        parser = make_parser()
        options = parser.parse_args(argv)
        if options.command is None:
            parser.print_help()
            return 0
        code: int = options.run(options)
        sys.stdout.flush()
    except VitregError as error:
        print(f"error: {plain_lines(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `vitreg models | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return code
