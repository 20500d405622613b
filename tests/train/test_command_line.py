"""Options are declared once: what a dataclass says of its fields is what the shell is told."""

from __future__ import annotations

import argparse
import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from engine.scripts.options import TableOptions
from engine.scripts.segmentation import SegmentationOptions
from vitreg.errors import InputError
from vitreg.train.basics.command_line import add_fields, attribute_texts, given_options
from vitreg.train.basics.console import exit_code
from vitreg.train.options import FinetuneOptions, PredictOptions


@dataclass(frozen=True)
class Base:
    """What others have too.

    Attributes:
        size: of the input,
            in pixels.

    Raises:
        ValueError: never.
    """

    size: int = 8


@dataclass(frozen=True)
class Options(Base):
    """What is asked for.

    Attributes:
        kind: one of two; None for a.
        rates: shares of 50 %.
        plugins: files, in place of `size`.
        quick: hardly anything.
        lr: a rate.
    """

    kind: Literal["a", "b"] | None = None
    rates: Sequence[float] = ()
    plugins: Sequence[str | Path] = ()
    quick: bool = False
    lr: float = 1e-4


def parse(*line: str) -> Options:
    parser = argparse.ArgumentParser()
    add_fields(parser.add_argument, Options)
    return given_options(Options, parser.parse_args(line))


def test_what_is_not_given_has_its_default() -> None:
    assert parse() == Options()


def test_a_field_s_type_says_what_its_option_takes() -> None:
    line = "--size 16 --kind b --rates 0.5 1 --plugin x.py --plugin y.py --quick --lr 2"
    plugins = [Path("x.py"), Path("y.py")]
    assert parse(*line.split()) == Options(16, "b", [0.5, 1.0], plugins, True, 2.0)
    with pytest.raises(SystemExit):
        parse("--kind", "c")


def test_the_docstring_is_the_help() -> None:
    parser = argparse.ArgumentParser()
    add_fields(parser.add_argument, Options, texts={"quick": "quicker"}, metavars={"size": "PX"})
    help = " ".join(parser.format_help().split())
    assert "--size PX of the input, in pixels (default: 8)" in help
    assert "--kind {a,b} one of two (default: a)" in help
    assert "--rates RATE [RATE ...] shares of 50 %" in help
    assert "--plugin PLUGIN files, in place of --size" in help
    assert "--quick quicker" in help
    assert "a rate (default: 0.0001)" in help


@pytest.mark.parametrize("kind", [FinetuneOptions, PredictOptions, TableOptions, SegmentationOptions])
def test_every_option_is_documented(kind: type) -> None:
    known = attribute_texts(FinetuneOptions) | {"weights": "of the model"} | attribute_texts(kind)
    assert fields(kind)
    assert {field.name for field in fields(kind)} <= known.keys()


def test_shared_options_are_described_once() -> None:
    shared = {field.name for field in fields(TableOptions)} & {
        field.name for field in fields(FinetuneOptions)
    }
    assert len(shared) > 12
    other = {"lam", "methods", "select", "hold_out", "epochs"}  # which mean something else in a table
    assert shared & attribute_texts(TableOptions).keys() == other


def test_what_the_system_refuses_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def script(console: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "out/model")

    assert exit_code(script) == 2
    told = "error: cannot use out/model: No space left on device; mend that and repeat the command\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("select", "fold", "--select: expected 'folds' or 'none', got str ('fold')"),
        ("normalise", "clip", "--normalise: expected 'imagenet' or 'model' or None"),
        ("fused_attention", True, "--fused-attention: expected 'yes' or 'no', got bool (True)"),
        ("compile", "yes", "--compile: expected bool, got str"),
        ("epochs", "10", "--epochs: expected float, got str"),
        ("batch_size", True, "--batch-size: expected int, got bool"),
        ("test", "field", "--test: expected a list of str, got str"),
        ("lams", [1, "2"], "--lams: expected a list of float or None, got list"),
    ],
)
def test_python_is_told_what_the_shell_refuses(name: str, value: object, expected: str) -> None:
    with pytest.raises(InputError, match=re.escape(expected)):
        FinetuneOptions(**{name: value})


def test_python_may_give_paths_and_whole_numbers() -> None:
    options = FinetuneOptions(epochs=10, lr=np.float32(0.1), seed=np.int64(3), test=("field",))
    assert (options.epochs, options.seed) == (10, 3)
