"""A command in a terminal, in one process or several; every error is one line and exit code 2."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from rich.console import Console

from vitreg.errors import VitregError
from vitreg.train.basics.distributed import (
    OtherProcessError,
    connect,
    count,
    disconnect,
    fail,
    follow,
    is_main,
)


def make_console() -> Console:
    """Return what the main process prints to; the others have one that prints nothing."""
    console = Console() if is_main() else Console(quiet=True, force_terminal=False)
    # A file has no width to fit into.
    return console if console.is_terminal else Console(width=160, quiet=console.quiet)


def exit_code(script: Callable[[Console], None]) -> int:
    """Run `script` and return 0, or 2 after one line on what was wrong with its input.

    Of several processes the main one alone has a console, and the first to fail says why.
    """
    connect()
    try:
        script(make_console())
        disconnect()
    except OtherProcessError:
        follow()
        return 2
    except (VitregError, OSError) as error:
        line = f"error: {' '.join(str(error).split())}"
        fail(lambda: print(line, file=sys.stderr, flush=True))
        return 2
    except KeyboardInterrupt:
        fail(lambda: print("stopped; the same command goes on from here", file=sys.stderr, flush=True))
        return 130
    except Exception:
        if count() == 1:
            raise
        fail(traceback.print_exc)
        return 1
    return 0
