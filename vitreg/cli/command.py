"""What a command of the command line is."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command, in a module of its own that is loaded once the command was chosen.

    Attributes:
        description: all of it.
        example: command lines that work.
        add_options: adds its options to its parser.
        run: does it and returns the exit code.
    """

    description: str
    example: str
    add_options: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
