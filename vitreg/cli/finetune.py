"""Fine-tune one model on your labelled photographs.

You need a folder with your pictures and the weights of a pre-trained Vision
Transformer of timm:

  FOLDER/train/CLASS/*.jpg beside FOLDER/test/CLASS/*.jpg
  FOLDER/CLASS/*.jpg alone


In the second form a fifth of each class is held out from training, to measure
on. The model, predictions.csv, confusion.png, attention.png and report.json are
written into the folder of --out. What is finished is never done again: the same
command goes on where it was stopped."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser, Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any

from vitreg.cli.command import Command
from vitreg.errors import InputError

_EXAMPLE = """For example

  vitreg finetune photos --weights deit_tiny.safetensors --out result

trains with GTA, which keeps the attention where the pre-trained model had it.
Which method is best for your pictures?

  vitreg finetune photos --weights deit_tiny.safetensors --out result --search

tries plain fine-tuning and two guides on a part of the training pictures, then
trains with the best of them.
"""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options to its parser; those that are not given are not in the namespace."""
    from vitreg.train import FinetuneOptions
    from vitreg.train.models.pretrained import FORMS
    from vitreg.train.options import LAM, METHOD, SEARCHED_LAMS, SEARCHED_METHODS
    from vitreg.train.training.methods import METHODS

    defaults = {one.name: one.default for one in fields(FinetuneOptions)}

    def add(flag: str, kind: Any = str, help: str = "", **options: Any) -> None:
        default = defaults.get(flag.removeprefix("--").replace("-", "_"))
        is_said = default is not None and not isinstance(default, bool)
        shown = f"{help} ({default:g})" if is_said and isinstance(default, (int, float)) else help
        shown = f"{help} ({default})" if is_said and isinstance(default, str) else shown
        told = {} if options.get("action") == "store_true" else {"type": kind}
        parser.add_argument(flag, help=shown, default=argparse.SUPPRESS, **told, **options)

    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="your pictures")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the same, by name")
    parser.add_argument("--weights", metavar="FILE", help=f"of the pre-trained model: {FORMS}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results go (runs/finetune-FOLDER)")
    add("--model", help="name of a timm model with a class token")
    plain = [name for name in METHODS if not name.endswith("+TransMix")]
    add("--method", help=f"{', '.join(plain)}, each also with +TransMix ({METHOD})")
    add("--lam", float, f"λ, how strongly a guide holds ({LAM:g})")
    search = "try methods and λ on held-out training pictures, use the best"
    add("--search", help=search, action="store_true")
    tried = ((" ".join(SEARCHED_METHODS)), " ".join(f"{lam:g}" for lam in SEARCHED_LAMS))
    add("--methods", help=f"of the search ({tried[0]})", nargs="+", metavar="METHOD")
    add("--lams", float, f"of the search ({tried[1]})", nargs="+", metavar="LAM")
    held = "share of each class that is held out, for the search or where there are no test pictures"
    add("--hold-out", float, held, metavar="RATE")
    add("--seed", int, "of everything random")
    add("--size", int, "side of the network's input in pixels")
    add("--steps", int, "training steps")
    add("--batch-size", int, "pictures of a step")
    add("--lr", float, "highest learning rate")
    add("--weight-decay", float, "of AdamW")
    add("--warmup-epochs", float, "passes over the pictures with a rising learning rate")
    add("--smoothing", float, "label smoothing")
    add("--drop-path", float, "stochastic depth")
    add("--augment", help="timm's augmentation string, `crop` for crop and flip alone, or `none`")
    add("--views", int, "augment each picture in K ways only, 0: anew each time", metavar="K")
    add("--every", int, "take the penalty on every K-th step, K times as strong", metavar="K")
    norm = "mean and deviation of the input: ImageNet's, or those that timm notes for the model"
    add("--normalise", help=norm, choices=("imagenet", "model"))
    add("--device", help="where it is computed", choices=("auto", "cpu", "cuda", "mps"))
    add("--precision", help="automatic mixed precision", choices=("no", "bf16"))
    add("--workers", int, "processes that read pictures; the figures do not depend on it")
    block = "of attention.png, from 0 (where the objects are known the one that looks at them, else the last)"
    add("--block", int, block)
    add(
        "--plugin",
        Path,
        "file that registers a penalty, a row or a model",
        action="append",
        dest="plugins",
        metavar="FILE",
    )


def run(options: Namespace) -> int:
    """Fine-tune, write the results and return the exit code."""
    from vitreg.train import FinetuneOptions, finetune
    from vitreg.train.basics.console import exit_code

    def command(console: Any) -> None:
        data = _folder(options)
        names = (one.name for one in fields(FinetuneOptions))
        given = {name: getattr(options, name) for name in names if hasattr(options, name)}
        chosen = FinetuneOptions(**given)
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
        missing.append("the pre-trained weights (--weights FILE, or --weights timm to fetch them)")
    if folder is None or missing:
        raise InputError(f"missing: {'; '.join(missing)}")
    return folder


COMMAND = Command(__doc__, _EXAMPLE, add_options, run)
