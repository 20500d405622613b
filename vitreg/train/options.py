"""What can be chosen of a fine-tuning and of a prediction, with the defaults, in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitreg.errors import InputError
from vitreg.train.training.hyperparameters import Hyperparameters
from vitreg.train.training.methods import check_methods, is_guided
from vitreg.train.training.plugins import load_plugins

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["no", "bf16"]

METHOD, LAM = "GTA", 1.0
"""The method where none is named, and the λ of a guide where none is given."""

SEARCHED_METHODS, SEARCHED_LAMS = ("GTA", "msa-output"), (0.1, 1.0, 10.0)
"""What a search tries beside plain fine-tuning, unless one says otherwise."""


_IS_IN: dict[str, Callable[[float], bool]] = {
    "a whole number above 0": lambda value: value >= 1 and value == int(value),
    "a whole number of at least 0": lambda value: value >= 0 and value == int(value),
    "a number above 0": lambda value: value > 0,
    "a number of at least 0": lambda value: value >= 0,
    "a share above 0 and at most 1": lambda value: 0 < value <= 1,
    "a share of at least 0 and below 1": lambda value: 0 <= value < 1,
}

_RANGES = {
    "size": "a whole number above 0",
    "lam": "a number of at least 0",
    "lams": "a number of at least 0",
    "hold_out": "a share above 0 and at most 1",
    "steps": "a whole number above 0",
    "batch_size": "a whole number above 0",
    "lr": "a number above 0",
    "weight_decay": "a number of at least 0",
    "warmup_epochs": "a number of at least 0",
    "smoothing": "a share of at least 0 and below 1",
    "drop_path": "a share of at least 0 and below 1",
    "views": "a whole number of at least 0",
    "every": "a whole number above 0",
    "seed": "a whole number of at least 0",
    "workers": "a whole number of at least 0",
}
"""What each number has to be."""


def _check_numbers(options: FinetuneOptions) -> None:
    for name, expected in _RANGES.items():
        given = getattr(options, name)
        values = given if isinstance(given, Sequence) else [] if given is None else [given]
        for value in values:
            if not math.isfinite(value) or not _IS_IN[expected](value):
                raise InputError(f"--{name.replace('_', '-')} {value:g}: expected {expected}")


@dataclass(frozen=True)
class FinetuneOptions:
    """How a model is fine-tuned.

    Attributes:
        model: name of a timm model with a class token.
        size: side of the network's input in pixels.
        normalise: mean and deviation of the input: ImageNet's, or those that timm notes for the model;
            None for ImageNet's, and a word where timm notes others.
        method: a row of the tables, such as "GTA", "fine-tune" or "msa-output+TransMix"; None for GTA.
        lam: λ, how strongly a guide holds; None for 1.
        search: whether methods and λ are tried on held-out training pictures first, and the best is used.
        methods: those that the search tries beside plain fine-tuning; None for GTA and msa-output.
        lams: the λ that the search tries; None for 0.1, 1 and 10.
        hold_out: the share of each class that is held out, for the search or where there are no test
            pictures.
        steps: training steps.
        batch_size: pictures of a step.
        lr: the highest learning rate, from which it falls to zero in a half cosine.
        weight_decay: of AdamW.
        warmup_epochs: passes over the pictures with a rising learning rate.
        smoothing: of the labels.
        drop_path: stochastic depth.
        augment: timm's augmentation string, "crop" for crop and flip alone, or "none".
        views: in how many ways each picture is augmented; 0 for anew each time.
        every: the penalty is taken on every so many steps, and as much stronger.
        seed: of everything random.
        device: where the model is trained.
        precision: automatic mixed precision.
        workers: processes that read pictures; the figures do not depend on it; None for a number that fits.
        block: whose attention is drawn, from 0; None for the one that looks at the objects, where they are
            known, else the last.
        plugins: files with penalties, rows or models of one's own, see `vitreg.train.training.plugins`.

    Raises:
        InputError: One of them cannot be meant.
    """

    model: str = "deit_tiny_patch16_224"
    size: int = 224
    normalise: Literal["imagenet", "model"] | None = None
    method: str | None = None
    lam: float | None = None
    search: bool = False
    methods: Sequence[str] | None = None
    lams: Sequence[float] | None = None
    hold_out: float = 0.2
    steps: int = 200
    batch_size: int = 64
    lr: float = 1e-4
    weight_decay: float = 0.05
    warmup_epochs: float = 0.0
    smoothing: float = 0.1
    drop_path: float = 0.0
    augment: str = "rand-m9-mstd0.5-inc1"
    views: int = 0
    every: int = 1
    seed: int = 0
    device: DeviceName = "auto"
    precision: Precision = "no"
    workers: int | None = None
    block: int | None = None
    plugins: Sequence[str | Path] = ()

    def __post_init__(self) -> None:
        load_plugins(self.plugins)
        _check_numbers(self)
        if self.search and (self.method is not None or self.lam is not None):
            raise InputError(
                "--search chooses method and λ itself; narrow it by --methods and --lams instead"
            )
        if not self.search and (self.methods is not None or self.lams is not None):
            raise InputError("--methods and --lams are the search's: add --search, or use --method and --lam")
        check_methods([*(self.methods or ()), *([self.method] if self.method else ())])
        if self.lam is not None and not is_guided(self.used_method):
            raise InputError(f"--lam {self.lam:g}: {self.used_method} has no λ")

    @property
    def used_method(self) -> str:
        """The method, as the tables write it."""
        return check_methods([self.method or METHOD])[0]

    @property
    def used_lam(self) -> float | None:
        """The λ, or None for a method without."""
        return (LAM if self.lam is None else self.lam) if is_guided(self.used_method) else None

    @property
    def searched(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """The methods and the λ of the search."""
        return check_methods(self.methods or SEARCHED_METHODS), tuple(self.lams or SEARCHED_LAMS)

    @property
    def hyper(self) -> Hyperparameters:
        """How the run is optimised."""
        return Hyperparameters(
            steps=self.steps,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup_epochs=self.warmup_epochs,
            smoothing=self.smoothing,
            drop_path=self.drop_path,
            views=self.views,
            every=self.every,
        )


@dataclass(frozen=True)
class PredictOptions:
    """How new pictures are predicted.

    Attributes:
        attention: whether it is drawn where the model looks, in up to eight of the pictures.
        block: of the attention, from 0; None for the last.
        device: where the model runs.
        precision: automatic mixed precision.
        plugins: files with models of one's own.
    """

    attention: bool = False
    block: int | None = None
    device: DeviceName = "auto"
    precision: Precision = "no"
    plugins: Sequence[str | Path] = ()

    def __post_init__(self) -> None:
        load_plugins(self.plugins)
