"""Fine-tune one model on your labelled photographs.

You need a folder with your pictures and the weights of a pre-trained Vision
Transformer of timm:

  FOLDER/train/CLASS/*.jpg beside FOLDER/test/CLASS/*.jpg
  FOLDER/CLASS/*.jpg alone


In the second form a fifth of each class is held out from training, to measure
on. The model, predictions.csv, confusion.png, attention.png and report.json are
written into the folder of --out. Whether the linear probe or the fine-tuned model
is delivered is chosen by training pictures that are held out in turn; those that
are reported on choose nothing. What is finished is never done again: the same
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

starts from the linear probe and trains with GTA, which keeps the attention where
the pre-trained model had it. Which learning rate and λ are best for your pictures?

  vitreg finetune photos --weights deit_tiny.safetensors --out result --search

tries some on training pictures that are held out in turn, and trains with the best.
"""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options to its parser; those that are not given are not in the namespace."""
    from vitreg.train import FinetuneOptions
    from vitreg.train.models.pretrained import FORMS
    from vitreg.train.options import LAM, METHOD, SEARCHED_LAMS, SEARCHED_LRS, SEARCHED_METHODS
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
    plain = [name for name in METHODS if not name.startswith("LP-FT") and not name.endswith("+TransMix")]
    add("--method", help=f"{', '.join(plain)}, each also with +TransMix ({METHOD})")
    add("--head", help="where the head starts: at the linear probe, or at random", choices=("probe", "new"))
    add("--lam", float, f"λ, how strongly a guide holds ({LAM:g})")
    select = (
        "how it is chosen whether the linear probe or the fine-tuned model is delivered: by training "
        "pictures held out in folds, or not at all: then it is the fine-tuned one"
    )
    add("--select", help=select, choices=("folds", "none"))
    add("--folds", int, "how many folds; fewer where a class has fewer pictures")
    search = "try learning rates and λ in the same folds first, use the best"
    add("--search", help=search, action="store_true")
    lams, lrs = (" ".join(f"{one:g}" for one in some) for some in (SEARCHED_LAMS, SEARCHED_LRS))
    methods = f"guides of the search ({' '.join(SEARCHED_METHODS)})"
    add("--methods", help=methods, nargs="+", metavar="METHOD")
    add("--lams", float, f"λ of the search ({lams})", nargs="+", metavar="LAM")
    add("--lrs", float, f"learning rates of the search ({lrs})", nargs="+", metavar="LR")
    minutes = "how long the search may take: fixes the list of trials before the first of them starts"
    add("--minutes", float, minutes)
    held = "share of each class that is held out to measure on where there are no test pictures"
    add("--hold-out", float, held, metavar="RATE")
    add("--seed", int, "of everything random")
    add("--size", int, "side of the network's input in pixels")
    add("--epochs", float, "passes over the training pictures")
    add("--steps", int, "training steps in place of --epochs")
    add("--batch-size", int, "pictures of a step")
    add("--lr", float, "highest learning rate")
    decay = "by what the learning rate falls from each layer to the one before it; 1: not at all"
    add("--layer-decay", float, decay)
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
