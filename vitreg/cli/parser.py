"""The parser of the command line: its commands, and errors that are the library's own."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

import vitreg
from vitreg.cli.command import Command
from vitreg.errors import ArgumentError

COMMANDS = {
    "finetune": "fine-tune one model on your labelled photographs",
    "predict": "name the classes of new pictures with that model",
    "export": "write that model for other programs: ONNX or torch.export",
    "describe": "show what a model is and what can be read in it",
    "models": "list the models that vitreg was tested with",
    "attention": "draw where a model looks on your pictures",
    "doctor": "check the installation",
}
"""What each command is for. Its module, called like it, is loaded only when it is chosen."""

_FORMAT = argparse.RawDescriptionHelpFormatter
_MANY = 12
"""Options from which on the usage does not list them."""


def load_command(name: str) -> Command:
    """Return a command, whose module may load torch."""
    command: Command = import_module(f"vitreg.cli.{name}").COMMAND
    return command


class Parser(argparse.ArgumentParser):
    """A parser that raises instead of leaving the program, with one line of usage."""

    def format_help(self) -> str:
        """Return the help; what takes many options is not listed twice."""
        if len(self._actions) > _MANY:
            places = [action.metavar for action in self._actions if not action.option_strings]
            self.usage = " ".join(["%(prog)s [options]", *map(str, places)])
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Raise `ArgumentError` with the parser's message."""
        raise ArgumentError(f"{message} (see `{self.prog} --help`)")


class CommandParser(Parser):
    """The parser of one command, which gets its options when it is used."""

    def __init__(self, *args: Any, command: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._waiting: str | None = command

    def _fill(self) -> None:
        if self._waiting is None:
            return
        command = load_command(self._waiting)
        self._waiting = None
        self.description, self.epilog = command.description, command.example
        command.add_options(self)
        self.set_defaults(run=command.run)

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Parse, with the options of the command."""
        self._fill()
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        """Return the help of the command."""
        self._fill()
        return super().format_help()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `vitreg`; each command's options hold its function `run`."""
    parser = Parser(
        "vitreg",
        description="Keep what a pre-trained Vision Transformer knows while fine-tuning it.",
        epilog="`vitreg COMMAND --help` shows the options of a command. For example\n\n"
        "  vitreg describe vit_small_patch16_224.dino",
        formatter_class=partial(_FORMAT, max_help_position=16),
    )
    parser.add_argument("--version", action="version", version=f"vitreg {vitreg.__version__}")
    commands = parser.add_subparsers(dest="command", title="commands", parser_class=CommandParser)
    for name, purpose in COMMANDS.items():
        commands.add_parser(
            name, help=purpose, command=name, formatter_class=partial(_FORMAT, max_help_position=28)
        )
    return parser
