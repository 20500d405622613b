"""The command line that all table scripts share, checked as far as it can be without opening a file."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from engine.experiment.job import Table
from vitreg.errors import InputError
from vitreg.train.data.subset import Share
from vitreg.train.models.pretrained import FORMS
from vitreg.train.runs.tracking import TRACKERS
from vitreg.train.training.methods import check_methods, is_guided


class Parser(argparse.ArgumentParser):
    """A parser whose errors are the recipes' own."""

    def error(self, message: str) -> NoReturn:
        """Raise `InputError` with the parser's message."""
        raise InputError(f"{message} (see --help)")


def parser(table: Table, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a table's script; options that are not given are None."""
    formatter = argparse.RawDescriptionHelpFormatter
    options = Parser(table.name, description=description, formatter_class=formatter)
    add = options.add_argument
    data = (
        "pictures in train/CLASS beside test/CLASS, with index.csv, in an official layout or archive, or "
        "hf:OWNER/DATASET; also NAME=DIR; without: the demo"
    )
    add("--data", nargs="+", metavar="DIR", help=data)
    weights = f"of the pre-trained model: {FORMS}; LABEL=… for each source of a table of several"
    add("--weights", nargs="+", metavar="FILE", help=weights)
    add("--model", help="name of a timm model with a class token")
    add("--size", type=whole, help="side of the network's input in pixels")
    share = options.add_mutually_exclusive_group()
    share.add_argument("--rates", nargs="+", type=rate, metavar="RATE", help="shares of each class, 0.15 1.0")
    share.add_argument("--shots", nargs="+", type=whole, metavar="N", help="pictures of each class instead")
    subset = "file that lists the training pictures, PATH LABEL in each line; NAME=FILE for several data sets"
    share.add_argument("--subset", nargs="+", metavar="FILE", help=subset)
    length = options.add_mutually_exclusive_group()
    length.add_argument("--steps", type=whole, help="training steps of a run")
    passes = "passes over a run's training pictures in place of --steps"
    length.add_argument("--epochs", type=positive, metavar="N", help=passes)
    add("--batch-size", type=whole, help="pictures of a step")
    add("--lr", type=positive, help="highest learning rate")
    add("--weight-decay", type=not_negative)
    add("--warmup-epochs", type=not_negative, help="passes over the subset with a rising learning rate")
    add("--smoothing", type=below_one, help="label smoothing")
    add("--drop-path", type=below_one, help="stochastic depth")
    add("--mixup", type=not_negative, metavar="ALPHA", help="mix pictures in all methods; DeiT: 0.8 (0)")
    add("--cutmix", type=not_negative, metavar="ALPHA", help="the same by boxes; DeiT: 1.0 (0)")
    add("--augment", help="timm's augmentation string, `crop` for crop and flip alone, or `none`")
    views = "augment each picture in K ways only, each computed and read once (0: anew each time)"
    add("--views", type=at_least_0, metavar="K", help=views)
    add("--every", type=whole, metavar="K", help="take the penalty on every K-th step, K times as strong (1)")
    add("--methods", nargs="+", metavar="METHOD", help="rows of the table")
    own = "Python file that registers penalties, extractors, families, models or rows; may be given again"
    add("--plugin", action="append", default=[], type=Path, metavar="FILE", help=own)
    add(
        "--lam",
        nargs="+",
        metavar="[METHOD=]LAM",
        help="λ of all penalties or of one; of several the best is taken",
    )
    selects = (
        "how the best λ is found: on a part of the training pictures that is held out, on the test pictures, "
        "as the paper may have done, or not at all: then each is a row"
    )
    add("--select", choices=("validation", "test", "none"), default=table.select, help=selects)
    held = "share of each class's training pictures that is held out to choose by (0.2)"
    add("--hold-out", type=part, default=0.2, metavar="RATE", help=held)
    measured = "measure accuracy and attention every N steps too, for the curves in each report"
    add("--measure-every", type=at_least_0, metavar="N", help=measured)
    add("--seeds", nargs="+", type=at_least_0, metavar="SEED", help="one run each: 0 1 2")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add("--precision", choices=("no", "bf16"), default="no", help="automatic mixed precision")
    add("--workers", type=at_least_0, help="processes that read pictures; the figures do not depend on it")
    add(
        "--normalise",
        choices=("imagenet", "model"),
        help="mean and deviation of the input",
    )
    spread = options.add_argument_group("several runs at once, on Ray")
    executor = "where runs are computed: one after the other here, or several at once on GPUs or machines"
    spread.add_argument("--executor", choices=("local", "ray"), default="local", help=executor)
    cluster = "HOST:PORT of a cluster, or auto; without: this machine alone"
    spread.add_argument("--address", help=cluster)
    spread.add_argument("--cpus-per-run", type=positive, metavar="N", help="below 1, several share one (1)")
    spread.add_argument("--gpus-per-run", type=not_negative, metavar="N", help="as the CPUs (0)")
    spread.add_argument("--retries", type=at_least_0, help="of a run that lost its process (3)")
    told = "also tell the log of each run to tensorboard, wandb or another of accelerate's trackers"
    add("--log-with", nargs="+", choices=TRACKERS, default=(), metavar="TRACKER", help=told)
    add("--out", type=Path, help="folder of runs and tables; tables with one folder share their runs")
    add("--preset", choices=("paper",), help="the paper's protocol")
    add("--quick", action="store_true", help="a few steps of everything, to see that it works")
    return options


def labelled_weights(texts: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Return the weights of each of the sources `labels`, from LABEL=FILE, or FILE for the only one.

    Raises:
        InputError: A source has none, or there are others.
    """
    if len(labels) == 1 and len(texts) == 1:
        return {labels[0]: texts[0]}
    known = {label.lower(): label for label in labels}
    found: dict[str, str] = {}
    for text in texts:
        label, equals, place = text.partition("=")
        if not equals or not place or label.lower() not in known or known[label.lower()] in found:
            break
        found[known[label.lower()]] = place
    if len(found) != len(texts) or len(found) != len(labels):
        expected = " ".join(f"{label}=FILE" for label in labels) if len(labels) > 1 else "one FILE"
        raise InputError(f"--weights {' '.join(texts)}: expected {expected}")
    return {label: found[label] for label in labels}


def named_places(texts: Sequence[str]) -> dict[str, str]:
    """Return folders, and data sets of a hub, by name from DIR, NAME=DIR, hf:OWNER/DATASET and so on.

    Raises:
        InputError: Two have one name.
    """
    places: dict[str, str] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if not equals or "/" in name:
            name, place = Path(text.partition("?")[0]).resolve().name, text
        if not name or not place or name in places:
            raise InputError(f"--data {text}: expected DIR or NAME=DIR, each name once")
        places[name] = place
    return places


def named_lists(texts: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """Return a file for each of the data sets `names`, from NAME=FILE, or FILE for the only one.

    Raises:
        InputError: A data set has none, or there are others.
    """
    if len(names) == 1 and len(texts) == 1:
        return {names[0]: Path(texts[0].removeprefix(f"{names[0]}="))}
    found = {name: Path(place) for name, _, place in (text.partition("=") for text in texts) if place}
    if sorted(found) != sorted(names) or len(found) != len(texts):
        expected = " ".join(f"{name}=FILE" for name in names) or "none, as the demo has no files"
        raise InputError(f"--subset {' '.join(texts)}: expected {expected}")
    return found


def parse_lams(texts: Sequence[str], methods: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Return the λ of each guided method that is mentioned, from LAM (for all of `methods`) or METHOD=LAM.

    Raises:
        InputError: A method is unknown or has no λ, or a λ is not a number, negative or not finite.
    """
    lams: dict[str, tuple[float, ...]] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        chosen = check_methods([name]) if equals else tuple(filter(is_guided, methods))
        if equals and not is_guided(chosen[0]):
            raise InputError(f"--lam {text}: {chosen[0]} has no λ")
        try:
            lam = not_negative(number)
        except ValueError as error:
            raise InputError(f"--lam {text}: λ is a finite number of at least 0") from error
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


def _make_check(
    name: str, kind: Callable[[str], float], is_good: Callable[[float], bool]
) -> Callable[[str], float]:
    def convert(text: str) -> float:
        value = kind(text)
        if not math.isfinite(value) or not is_good(value):
            raise ValueError(text)
        return value

    convert.__name__ = name  # argparse says "invalid NAME value"
    return convert


whole = _make_check("whole number above 0", int, lambda value: value > 0)
at_least_0 = _make_check("whole number", int, lambda value: value >= 0)
rate = _make_check("rate (above 0, at most 1)", float, lambda value: 0 < value <= 1)
positive = _make_check("number above 0", float, lambda value: value > 0)
not_negative = _make_check("number of at least 0", float, lambda value: value >= 0)
part = _make_check("share (above 0, below 1)", float, lambda value: 0 < value < 1)
below_one = _make_check("share (at least 0, below 1)", float, lambda value: 0 <= value < 1)
