"""Predict the classes of new pictures with a model that `vitreg finetune` stored.

RESULT is the --out of `vitreg finetune`, or its model.safetensors. The command
writes predictions.csv with the path of each picture and its three most probable
classes. Folders are searched with all their subfolders. --attention also writes
attention.png, which shows where the model looks in up to eight of the pictures."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from vitreg.cli.command import Command
from vitreg.errors import ArgumentError, InputError

_EXAMPLE = """For example

  vitreg predict result holiday.jpg more_pictures --out predicted
"""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options to its parser."""
    from vitreg.train import PredictOptions
    from vitreg.train.basics.command_line import add_fields

    add = parser.add_argument
    given = "the model, then picture files or folders; only pictures if --model is given"
    add("places", nargs="+", type=Path, metavar="RESULT PICTURES", help=given)
    add("--model", type=Path, metavar="RESULT", help="the same as RESULT")
    out = "folder of the results (default: predicted)"
    add("--out", type=Path, default=Path("predicted"), metavar="DIR", help=out)
    add_fields(add, PredictOptions, metavars={"plugins": "FILE"})


def run(options: Namespace) -> int:
    """Predict, write the results and return the exit code."""
    from vitreg.train import PredictOptions, predict
    from vitreg.train.basics.command_line import given_options
    from vitreg.train.basics.console import exit_code
    from vitreg.train.basics.distributed import on_main
    from vitreg.train.data.reading import in_one_line

    model, pictures = options.model, list(options.places)
    if model is None:
        model = pictures.pop(0)
    if not pictures:
        raise ArgumentError(f"Expected pictures behind the model {model}, found none.")
    chosen = given_options(PredictOptions, options)

    def command(console: Any) -> None:
        def work() -> None:
            found = predict(pictures, model=model, out=options.out, options=chosen, console=console)
            if found.left_out:
                num_given = len(found.paths) + len(found.left_out)
                reasons = in_one_line(found.left_out)
                raise InputError(f"{len(found.left_out)} of {num_given} pictures left out: {reasons}")

        on_main(work)

    return exit_code(command)


COMMAND = Command(__doc__, _EXAMPLE, add_options, run)
