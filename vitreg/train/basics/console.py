"""A command in a terminal, in one process or several; every error is one line and exit code 2."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rich.console import Console

from vitreg.errors import VitregError
from vitreg.train.basics.distributed import (
    OtherProcessError,
    connect,
    disconnect,
    is_main,
    report_failure_once,
    wait_for_failure,
    world_size,
)
from vitreg.wording import plain, plain_lines


class HarmlessConsole(Console):
    """A console on which nothing that is printed does anything, and that may end while work goes on.

    Control characters in names of files are shown and not obeyed, and whoever reads with `| head` has read
    enough without ending a training.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does."""
        shown = (plain_lines(one) if isinstance(one, str) else one for one in objects)
        super().print(*shown, **options)

    def on_broken_pipe(self) -> None:
        """Print nothing from now on."""
        self.quiet = True
        with suppress(OSError, ValueError):  # a stream that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_console() -> Console:
    """Return what the main process prints to; the others have one that prints nothing."""
    console = HarmlessConsole() if is_main() else HarmlessConsole(quiet=True, force_terminal=False)
    # A file has no width to fit into.
    return console if console.is_terminal else HarmlessConsole(width=160, quiet=console.quiet)


def say(console: Console, *lines: str) -> None:
    """Print lines as they are: no markup, no colours, and not folded to the width of the terminal."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def exit_code(script: Callable[[Console], None]) -> int:
    """Run `script` and return 0, or 2 after one line on what was wrong with its input.

    Of several processes the main one alone has a console, and the first to fail says why.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without λ shows \u03bb
    connect()
    try:
        script(make_console())
        disconnect()
    except OtherProcessError:
        wait_for_failure()
        return 2
    except (VitregError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename:
            text = f"cannot use {error.filename}: {error.strerror}; mend that and repeat the command"
        line = f"error: {plain(' '.join(text.split()))}"
        report_failure_once(lambda: print(line, file=sys.stderr, flush=True))
        return 2
    except KeyboardInterrupt:
        report_failure_once(
            lambda: print("stopped; the same command goes on from here", file=sys.stderr, flush=True)
        )
        return 130
    except Exception:
        if world_size() == 1:
            raise
        report_failure_once(traceback.print_exc)
        return 1
    return 0
