"""The parser of the command line: its commands, and errors that are the library's own."""

from __future__ import annotations

import argparse
from functools import partial
from typing import NoReturn

import vitreg
from vitreg.cli.attention import COMMAND as ATTENTION
from vitreg.cli.describe import COMMAND as DESCRIBE
from vitreg.cli.doctor import COMMAND as DOCTOR
from vitreg.cli.models import COMMAND as MODELS
from vitreg.errors import ArgumentError

COMMANDS = (DESCRIBE, MODELS, ATTENTION, DOCTOR)

_FORMAT = argparse.RawDescriptionHelpFormatter


class Parser(argparse.ArgumentParser):
    """A parser that raises instead of leaving the program."""

    def error(self, message: str) -> NoReturn:
        """Raise `ArgumentError` with the parser's message."""
        raise ArgumentError(f"{message} (see `{self.prog} --help`)")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `vitreg`; each command's options hold its function `run`."""
    parser = Parser(
        "vitreg",
        description="Keep what a pre-trained Vision Transformer knows while fine-tuning it. These commands\n"
        "look at models; training is done in Python.",
        epilog="`vitreg COMMAND --help` says more of a command. For example\n\n"
        "  vitreg describe vit_small_patch16_224.dino",
        formatter_class=partial(_FORMAT, max_help_position=16),
    )
    parser.add_argument("--version", action="version", version=f"vitreg {vitreg.__version__}")
    commands = parser.add_subparsers(dest="command", title="commands")
    for command in COMMANDS:
        own = commands.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            epilog=command.example,
            formatter_class=partial(_FORMAT, max_help_position=28),
        )
        command.add_options(own)
        own.set_defaults(run=command.run)
    return parser
