"""The command line that all table scripts share, checked as far as it can be without opening a file."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from engine.errors import RecipeError
from engine.methods import check_methods, is_guided
from engine.subset import Share


class Parser(argparse.ArgumentParser):
    """A parser whose errors are the recipes' own."""

    def error(self, message: str) -> NoReturn:
        """Raise `RecipeError` with the parser's message."""
        raise RecipeError(f"{message} (see --help)")


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of the table script `name`; options that are not given are None."""
    options = Parser(name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = options.add_argument
    data = (
        "pictures in train/CLASS beside test/CLASS, with index.csv or in an official layout or archive; also "
        "NAME=DIR; without: the demo"
    )
    add("--data", nargs="+", metavar="DIR", help=data)
    add("--weights", type=Path, metavar="FILE", help=".safetensors or .pth of the pre-trained model")
    add("--model", help="name of a timm model with a class token")
    add("--size", type=whole, help="side of the network's input in pixels")
    share = options.add_mutually_exclusive_group()
    share.add_argument("--rates", nargs="+", type=rate, metavar="RATE", help="shares of each class, 0.15 1.0")
    share.add_argument("--shots", nargs="+", type=whole, metavar="N", help="pictures of each class instead")
    add("--steps", type=whole, help="training steps of a run")
    add("--batch-size", type=whole, help="pictures of a step")
    add("--lr", type=positive, help="highest learning rate")
    add("--weight-decay", type=not_negative)
    add("--warmup-epochs", type=not_negative, help="passes over the subset with a rising learning rate")
    add("--smoothing", type=below_one, help="label smoothing")
    add("--drop-path", type=below_one, help="stochastic depth")
    add("--augment", help="timm's augmentation string, `crop` for crop and flip alone, or `none`")
    add("--methods", nargs="+", metavar="METHOD", help="rows of the table")
    add(
        "--lam",
        nargs="+",
        metavar="[METHOD=]LAM",
        help="λ of all guides or of one; several values, several rows",
    )
    add("--seeds", nargs="+", type=at_least_0, metavar="SEED", help="one run each: 0 1 2")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add("--precision", choices=("no", "bf16"), default="no", help="automatic mixed precision")
    add("--workers", type=at_least_0, help="processes that read pictures; the figures do not depend on it")
    add(
        "--normalise",
        choices=("imagenet", "model"),
        default="imagenet",
        help="mean and deviation of the input",
    )
    add("--out", type=Path, help="folder of runs and tables")
    add("--preset", choices=("paper",), help="the paper's protocol")
    return options


def named_folders(texts: Sequence[str]) -> dict[str, Path]:
    """Return folders by name from DIR or NAME=DIR.

    Raises:
        RecipeError: Two folders have one name.
    """
    folders: dict[str, Path] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if not equals or "/" in name:
            name, place = Path(text).resolve().name, text
        if not name or not place or name in folders:
            raise RecipeError(f"--data {text}: expected DIR or NAME=DIR, each name once")
        folders[name] = Path(place)
    return folders


def parse_lams(texts: Sequence[str], methods: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Return the λ of each guided method that is mentioned, from LAM (for all of `methods`) or METHOD=LAM.

    Raises:
        RecipeError: A method is unknown or has no λ, or a λ is not a number, negative or not finite.
    """
    lams: dict[str, tuple[float, ...]] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        chosen = check_methods([name]) if equals else tuple(filter(is_guided, methods))
        if equals and not is_guided(chosen[0]):
            raise RecipeError(f"--lam {text}: {chosen[0]} has no λ")
        try:
            lam = not_negative(number)
        except ValueError as error:
            raise RecipeError(f"--lam {text}: λ is a finite number of at least 0") from error
        for method in chosen:
            lams[method] = tuple(dict.fromkeys((*lams.get(method, ()), lam)))
    return lams


def parse_shares(
    rates: Sequence[float] | None, shots: Sequence[int] | None, default: Sequence[float]
) -> list[Share]:
    """Return each share once, from whichever of the two was given."""
    if shots is not None:
        return [Share(shots=number) for number in dict.fromkeys(shots)]
    return [Share(rate=rate) for rate in dict.fromkeys(default if rates is None else rates)]


def _checked(
    name: str, kind: Callable[[str], float], is_good: Callable[[float], bool]
) -> Callable[[str], float]:
    def convert(text: str) -> float:
        value = kind(text)
        if not math.isfinite(value) or not is_good(value):
            raise ValueError(text)
        return value

    convert.__name__ = name  # argparse says "invalid NAME value"
    return convert


whole = _checked("whole number above 0", int, lambda value: value > 0)
at_least_0 = _checked("whole number", int, lambda value: value >= 0)
rate = _checked("rate (above 0, at most 1)", float, lambda value: 0 < value <= 1)
positive = _checked("number above 0", float, lambda value: value > 0)
not_negative = _checked("number of at least 0", float, lambda value: value >= 0)
below_one = _checked("share (at least 0, below 1)", float, lambda value: 0 <= value < 1)
