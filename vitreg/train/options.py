"""What can be chosen of a fine-tuning and of a prediction, with the defaults, in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from vitreg.errors import InputError
from vitreg.train.basics.command_line import check_types
from vitreg.train.training.hyperparameters import Hyperparameters
from vitreg.train.training.methods import BASELINE, METHODS, check_methods, is_guided, usual_lam
from vitreg.train.training.plugins import load_plugins

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "no", "bf16"]
Answer = Literal["yes", "no"]

METHOD = "GTA"
"""The method where none is named."""

LR, LAYER_DECAY, EPOCHS, BATCH_SIZE, SMOOTHING, AUGMENT = 1e-4, 1.0, 10.0, 32, 0.0, "crop"
"""How a model is trained from the linear probe's head.

Chosen with DeiT-Tiny at 224 px and five pictures a class on test pictures, mostly of one seed: see the page
on results, with what 20 epochs gain and where they do not.
"""

SEARCHED_METHODS, SEARCHED_LRS = ("GTA",), (3e-5, 1e-4, 3e-4)
"""What a search tries, each learning rate without a guide, too."""

_NUMBERS: tuple[tuple[str, Callable[[float], bool], tuple[str, ...]], ...] = (
    (
        "a whole number above 0",
        lambda n: n >= 1 and n == int(n),
        ("size", "steps", "batch_size", "every", "shots"),
    ),
    ("a whole number above 1", lambda n: n >= 2 and n == int(n), ("folds",)),
    (
        "a whole number of at least 0",
        lambda n: n >= 0 and n == int(n),
        ("views", "seed", "seeds", "workers", "retries"),
    ),
    ("a number above 0", lambda n: n > 0, ("lrs", "minutes", "epochs", "lr", "cpus_per_run")),
    (
        "a number of at least 0",
        lambda n: n >= 0,
        ("lam", "lams", "weight_decay", "warmup_epochs", "mixup", "cutmix", "gpus_per_run"),
    ),
    (
        "a share above 0 and at most 1",
        lambda n: 0 < n <= 1,
        ("layer_decay", "fraction", "rates", "mass", "tied"),
    ),
    ("a share above 0 and below 1", lambda n: 0 < n < 1, ("hold_out",)),
    ("a share of at least 0 and below 1", lambda n: 0 <= n < 1, ("smoothing", "drop_path")),
)
"""What each number has to be, of a fine-tuning and of a table."""


def check_numbers(options: object) -> None:
    """Raise `InputError` if an option is not such a number as is expected of its name."""
    for expected, is_expected, names in _NUMBERS:
        for name in names:
            given = getattr(options, name, None)
            values = given if isinstance(given, Sequence) else [] if given is None else [given]
            for value in values:
                is_text = isinstance(value, str)  # of several forms, which are told apart elsewhere
                if not is_text and not (math.isfinite(value) and is_expected(value)):
                    raise InputError(f"--{name.replace('_', '-')} {value:g}: expected {expected}")


@dataclass(frozen=True)
class FinetuneOptions:
    """How a model is fine-tuned.

    Attributes:
        model: timm model with a class token.
        size: input size in pixels.
        normalise: mean and deviation of the input, ImageNet's or those that timm records for the model; None
            for imagenet, with a warning if timm records others.
        method: method, a name or several joined by +, such as "GTA", "fine-tune" or "msa-output+TransMix";
            None for GTA.
        head: initial head, the linear probe's or one with random weights.
        lam: λ, the weight of the penalty; None for the method's usual one, 1 for GTA.
        select: choice between the linear probe and the fine-tuned model, by folds of the training pictures;
            none always delivers the fine-tuned model.
        folds: number of folds; fewer if a class has fewer pictures.
        search: search learning rate, method and λ first, on the same folds.
        methods: methods that the search tries; None for GTA.
        lams: values of λ that the search tries; None for each method's usual one and ten times that.
        lrs: learning rates that the search tries; None for 3e-5, 1e-4 and 3e-4.
        minutes: time limit of the search; None for no limit.
        test: further test pictures, as folders with the same classes, NAME=DIR, or as names of splits in
            index.csv; nothing is chosen by them.
        hold_out: share of each class held out for testing if there are no test pictures.
        epochs: passes over the training pictures.
        steps: number of training steps, instead of `epochs`.
        batch_size: pictures per step.
        micro_batch: pictures computed at once, to the same gradients; "auto" for what fits, None for all.
        compile: compile model, loss and penalty.
        grad_checkpointing: recompute blocks in the backward pass to save memory.
        fsdp: share weights, gradients and AdamW's state out among the processes of torchrun (FSDP2).
        fused_attention: use of timm's fused attention.
        lr: peak learning rate, which decays to zero along a half cosine.
        layer_decay: factor of the learning rate from each layer to the one before it.
        weight_decay: weight decay of AdamW.
        warmup_epochs: passes over the pictures with a rising learning rate.
        smoothing: label smoothing.
        drop_path: stochastic depth rate.
        augment: augmentation, a string of timm, "crop" for crop and flip only, or "none".
        views: number of augmented views of each picture; 0 for a new one each time.
        every: penalty on one in this many steps, this many times as strong.
        fraction: share of a step's pictures, drawn at random, on which the penalty is taken.
        balance: ratio of the penalty's gradient to the loss's, kept by changing λ; 0 for a fixed λ.
        seed: random seed.
        device: device to compute on.
        precision: automatic mixed precision, also of the evaluation, where bf16 changes up to 1 prediction in
            100; auto is bf16 on GPUs of CUDA capability 8.0 or higher.
        workers: processes that read pictures, without effect on results; None for a suitable number.
        block: block whose attention is drawn, from 0; None for the one that looks most at the objects where
            they are known, else the last.
        plugins: Python file that registers penalties, extractors, families, models or methods; may be
            repeated.

    Raises:
        InputError: One of them cannot be meant.
    """

    model: str = "deit_tiny_patch16_224"
    size: int = 224
    normalise: Literal["imagenet", "model"] | None = None
    method: str | None = None
    head: Literal["probe", "new"] = "probe"
    lam: float | None = None
    select: Literal["folds", "none"] = "folds"
    folds: int = 2
    search: bool = False
    methods: Sequence[str] | None = None
    lams: Sequence[float] | None = None
    lrs: Sequence[float] | None = None
    minutes: float | None = None
    test: Sequence[str] = ()
    hold_out: float = 0.2
    epochs: float = EPOCHS
    steps: int | None = None
    batch_size: int = BATCH_SIZE
    micro_batch: str | int | None = None
    compile: bool = False
    grad_checkpointing: bool = False
    fsdp: bool = False
    fused_attention: Answer = "yes"
    lr: float = LR
    layer_decay: float = LAYER_DECAY
    weight_decay: float = 0.05
    warmup_epochs: float = 0.0
    smoothing: float = SMOOTHING
    drop_path: float = 0.0
    augment: str = AUGMENT
    views: int = 0
    every: int = 1
    fraction: float = 1.0
    balance: float = 0.0
    seed: int = 0
    device: DeviceName = "auto"
    precision: Precision = "auto"
    workers: int | None = None
    block: int | None = None
    plugins: Sequence[str | Path] = ()

    def __post_init__(self) -> None:
        check_types(self)
        load_plugins(self.plugins)
        check_numbers(self)
        if self.search and (self.method is not None or self.lam is not None):
            raise InputError("--search chooses method and λ itself; narrow it by --methods and --lams")
        only = {"--methods": self.methods, "--lams": self.lams, "--lrs": self.lrs, "--minutes": self.minutes}
        given = [name for name, value in only.items() if value is not None]
        if not self.search and given:
            raise InputError(f"{' and '.join(given)} only with --search, or use --method, --lam and --lr")
        if self.search and self.select == "none":
            raise InputError("--search chooses by folds: leave out --select none")
        check_methods([*(self.methods or ()), *([self.method] if self.method else ())])
        if self.lam is not None and not is_guided(self.used_method):
            raise InputError(f"--lam {self.lam:g}: {self.method} has no λ")

    @property
    def used_method(self) -> str:
        """The method with its head, as the tables write it."""
        return self._with_head(self.method or METHOD)

    @property
    def unguided(self) -> str:
        """Plain fine-tuning from the same head."""
        return self._with_head(BASELINE)

    @property
    def used_lam(self) -> float | None:
        """The λ, or None for a method without."""
        if not is_guided(self.used_method):
            return None
        return usual_lam(self.used_method) if self.lam is None else self.lam

    @property
    def searched(self) -> list[tuple[str, float | None]]:
        """The methods of the search, each with every λ that is tried; None for one without."""
        found: list[tuple[str, float | None]] = []
        for method in map(self._with_head, self.methods or SEARCHED_METHODS):
            usual = usual_lam(method) if is_guided(method) else None
            tried = [None] if usual is None else self.lams or (usual, 10 * usual)
            found += [(method, lam) for lam in tried]
        return list(dict.fromkeys(found))

    def hyper(self, num_pictures: int, *, share: float = 1.0) -> Hyperparameters:
        """Return how a run on a `share` of `num_pictures` is optimised, with the same passes for any."""
        steps = self.epochs * num_pictures / self.batch_size if self.steps is None else self.steps
        given = {f.name: getattr(self, f.name) for f in fields(Hyperparameters) if hasattr(self, f.name)}
        return Hyperparameters(**{**given, "steps": max(1, round(share * steps))})

    def _with_head(self, name: str) -> str:
        """Return a method, started from the probe's head where the options want that and it can be."""
        (method,) = check_methods([name])
        if self.head == "probe" and METHODS[method].head == "new":
            (method,) = check_methods([f"LP-FT+{method}"])
        return method


@dataclass(frozen=True)
class PredictOptions:
    """How new pictures are predicted.

    Attributes:
        attention: draw where the model looks, on up to eight of the pictures.
        block: block whose attention is drawn, from 0; None for the last.
        device: device to compute on.
        precision: automatic mixed precision; auto is bf16 on GPUs of CUDA capability 8.0 or higher.
        plugins: Python file that registers your own models; may be repeated.
    """

    attention: bool = False
    block: int | None = None
    device: DeviceName = "auto"
    precision: Precision = "auto"
    plugins: Sequence[str | Path] = ()

    def __post_init__(self) -> None:
        check_types(self)
        load_plugins(self.plugins)
