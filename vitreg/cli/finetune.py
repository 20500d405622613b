"""Fine-tune one model on your labelled photographs.

You need a folder with your pictures and the weights of a pre-trained Vision
Transformer of timm:

  FOLDER/train/CLASS/*.jpg beside FOLDER/test/CLASS/*.jpg
  FOLDER/CLASS/*.jpg alone


In the second form a fifth of each class is held out for testing. The command
writes the model, predictions.csv and report.html, one page with all results, into
the folder of --out. It delivers the linear probe or the fine-tuned model,
whichever is more accurate on folds of the training pictures; the test pictures
choose nothing. Run the same command again to continue one that was stopped."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from vitreg.cli.command import Command
from vitreg.errors import InputError

_EXAMPLE = """For example

  vitreg finetune photos --weights deit_tiny.safetensors --out result

  vitreg finetune photos --weights timm --out result --search

The first starts from the linear probe and trains with GTA, which keeps the
attention where the pre-trained model had it. The second also searches learning
rate and λ on folds of the training pictures.
"""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options to its parser; those that are not given are not in the namespace."""
    from vitreg.train import FinetuneOptions
    from vitreg.train.basics.command_line import add_fields
    from vitreg.train.models.pretrained import FORMS
    from vitreg.train.options import METHOD
    from vitreg.train.training.methods import METHODS

    add = parser.add_argument
    add("folder", nargs="?", type=Path, metavar="FOLDER", help="folder with your pictures")
    add("--data", type=Path, metavar="FOLDER", help="the same as FOLDER")
    add("--weights", metavar="FILE", help=f"pre-trained weights: {FORMS}")
    add("--out", type=Path, metavar="DIR", help="folder of the results (default: runs/finetune-FOLDER)")
    plain = [name for name in METHODS if not name.startswith("LP-FT") and not name.endswith("+TransMix")]
    method = f"{', '.join(plain)}, or several joined by +; None for {METHOD}"
    metavars = {"test": "NAME[=DIR]", "hold_out": "RATE", "micro_batch": "N|auto"}
    metavars |= {"views": "K", "every": "K", "plugins": "FILE"}
    add_fields(add, FinetuneOptions, texts={"method": method}, metavars=metavars)


def run(options: Namespace) -> int:
    """Fine-tune, write the results and return the exit code."""
    from vitreg.train import FinetuneOptions, finetune
    from vitreg.train.basics.command_line import given_options
    from vitreg.train.basics.console import exit_code

    def command(console: Any) -> None:
        data = _folder(options)
        chosen = given_options(FinetuneOptions, options)
        finetune(data, weights=options.weights, out=options.out, options=chosen, console=console)

    return exit_code(command)


def _folder(options: Namespace) -> Path:
    """Return the folder of the pictures.

    Raises:
        InputError: It is given twice, or it or the weights are missing; then all that is missing is said.
    """
    if options.folder is not None and options.data is not None:
        raise InputError(f"one folder of pictures is expected, found {options.folder} and {options.data}")
    folder: Path | None = options.folder or options.data
    missing = []
    if folder is None:
        missing.append(
            "a folder with your pictures, FOLDER/CLASS/*.jpg or FOLDER/train/CLASS/*.jpg beside "
            "FOLDER/test/CLASS/*.jpg"
        )
    if options.weights is None:
        missing.append(
            "the pre-trained weights (--weights FILE, or --weights timm, which fetches those of --model)"
        )
    if folder is None or missing:
        raise InputError(f"missing: {'; '.join(missing)}")
    return folder


COMMAND = Command(__doc__, _EXAMPLE, add_options, run)
