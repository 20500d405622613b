"""Write a model that `vitreg finetune` stored as a file for other programs.

RESULT is the --out of `vitreg finetune`, or its model.safetensors. The file takes
normalised pictures and returns logits; FILE.json beside it describes how to prepare
a picture and lists the classes. The file is kept only if, on ten pictures, no
logit differs from the model's by more than a thousandth of the largest.

It needs onnx, onnxruntime and onnxscript for ONNX: pip install "vitreg[export]"."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from vitreg.cli.command import Command

_EXAMPLE = """For example

  vitreg export result
  vitreg export result --format torch --out birds.pt2 --pictures photos/test
"""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    add("model", type=Path, metavar="RESULT", help="the model")
    formats = "ONNX, or a program of torch.export (default: onnx)"
    add("--format", choices=("onnx", "torch"), default="onnx", help=formats)
    add("--out", type=Path, metavar="FILE", help="output file (default: model.onnx or model.pt2 in RESULT)")
    pictures = "files or folders of pictures for the check (default: random pictures)"
    add("--pictures", nargs="+", type=Path, default=[], metavar="PICTURES", help=pictures)


def run(options: Namespace) -> int:
    """Write the file and return the exit code."""
    from vitreg.train import export
    from vitreg.train.basics.console import exit_code

    def command(console: Any) -> None:
        given = {"format": options.format, "out": options.out, "pictures": options.pictures}
        export(options.model, **given, console=console)

    return exit_code(command)


COMMAND = Command(__doc__, _EXAMPLE, add_options, run)
