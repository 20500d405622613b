"""The command line that all table scripts share, checked as far as it can be without opening a file."""

from __future__ import annotations

import math
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from vitreg.cli.parser import Parser
from vitreg.errors import InputError
from vitreg.train.basics.command_line import add_fields, attribute_texts, given_options
from vitreg.train.models.pretrained import FORMS
from vitreg.train.options import Answer, DeviceName, FinetuneOptions, Precision, check_numbers
from vitreg.train.training.methods import check_methods, is_guided

T = TypeVar("T")

METAVARS = {
    "data": "DIR",
    "model": "NAME",
    "weights": "FILE",
    "subset": "FILE",
    "plugins": "FILE",
    "lam": "[METHOD=]LAM",
    "log_with": "TRACKER",
    "micro_batch": "N|auto",
    "views": "K",
    "every": "K",
    "measure_every": "N|log",
    "pictures": "INDEX",
    "test": "NAME[=DIR]",
    "tied": "RATE",
}


@dataclass(frozen=True)
class TableOptions:
    """What a table's script is told; for what is None the demo, photographs or the preset have a value.

    What is not said here of an option is said in `FinetuneOptions`, which has it too.

    Attributes:
        data: folders or archives of pictures, DIR or NAME=DIR, with train/CLASS beside test/CLASS, an
            index.csv or an official layout; or hf:OWNER/DATASET; None for the demo.
        rates: shares of each class to train on; None for 0.15 and 1.
        shots: numbers of pictures of each class to train on, instead of `rates`.
        subset: file that lists the training pictures, PATH LABEL per line; NAME=FILE for several data sets.
        epochs: passes over the training pictures, instead of `steps`.
        mixup: mixup alpha in all methods; DeiT uses 0.8.
        cutmix: CutMix alpha in all methods; DeiT uses 1.
        methods: rows of the table.
        lam: λ of all penalties or of one method; the best of several is chosen.
        select: pictures that choose the best λ, held-out training pictures or, as the paper may have done,
            the test pictures; none makes each λ a row.
        hold_out: share of each class's training pictures held out to choose λ.
        measure_every: number of steps between measurements of accuracy and attention during training, or log
            for after 1, 2, 4, 8 steps and so on.
        seeds: random seeds, one run each; None for 0, 1 and 2.
        executor: local for one run after the other, ray for several at once on GPUs or machines.
        address: address of the Ray cluster, HOST:PORT or auto; None for this machine alone.
        cpus_per_run: CPUs per run on Ray; below 1, runs share one; None for 1.
        gpus_per_run: GPUs per run on Ray; below 1, runs share one; None for 0.
        retries: restarts on Ray of a run that lost its process; None for 3.
        log_with: trackers that also receive the log of each run, tensorboard, wandb or another of
            accelerate's.
        out: folder of runs and tables; tables with the same folder share their runs.
        preset: settings of the paper's protocol.
        quick: take a few steps of everything, to see that it works.
    """

    data: Sequence[str] | None = None
    weights: Sequence[str] | None = None
    model: Sequence[str] | None = None
    size: int | None = None
    normalise: Literal["imagenet", "model"] | None = None
    rates: Sequence[float] | None = None
    shots: Sequence[int] | None = None
    subset: Sequence[str] | None = None
    steps: int | None = None
    epochs: float | None = None
    batch_size: int | None = None
    micro_batch: str | None = None
    compile: bool = False
    grad_checkpointing: bool = False
    fsdp: bool = False
    fused_attention: Answer = "yes"
    lr: float | None = None
    weight_decay: float | None = None
    warmup_epochs: float | None = None
    smoothing: float | None = None
    drop_path: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    augment: str | None = None
    views: int | None = None
    every: int | None = None
    fraction: float | None = None
    balance: float | None = None
    methods: Sequence[str] | None = None
    lam: Sequence[str] = ()
    select: Literal["validation", "test", "none"] | None = None
    hold_out: float = 0.2
    measure_every: str | None = None
    seeds: Sequence[int] | None = None
    device: DeviceName = "auto"
    precision: Precision = "auto"
    workers: int | None = None
    executor: Literal["local", "ray"] = "local"
    address: str | None = None
    cpus_per_run: float | None = None
    gpus_per_run: float | None = None
    retries: int | None = None
    log_with: Sequence[str] = ()
    plugins: Sequence[Path] = ()
    out: Path | None = None
    preset: Literal["paper"] | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        check_numbers(self)
        for names in (("rates", "shots", "subset"), ("steps", "epochs")):
            if len([name for name in names if getattr(self, name) is not None]) > 1:
                raise InputError(f"expected one of --{', --'.join(names)}, found several")

    @property
    def is_demo(self) -> bool:
        """Whether the table is of the drawn world."""
        return self.data is None and self.preset is None


@dataclass(frozen=True)
class PlannedOptions(TableOptions):
    """What the script of a table alone is told.

    Attributes:
        plan: say what the table takes, by some seconds of training, and compute nothing; what is missing has
            stand-ins.
    """

    plan: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plan and self.is_demo:
            raise InputError("--plan only with --data or --preset: the demo takes 6 minutes")


def read_options(kind: type[T], name: str, description: str | None, argv: Sequence[str] | None) -> T:
    """Return the options of the script `name` on the command line, or in `argv`, as the dataclass `kind`.

    Raises:
        VitregError: One is unknown, or cannot be meant.
    """
    parser = Parser(f"python recipes/{name}.py", description=description)
    parser.formatter_class = RawDescriptionHelpFormatter
    weights = f"pre-trained weights: {FORMS}; LABEL=… for each of several sources"
    model = "timm model with a class token; LABEL=NAME for each of several sources where they differ"
    texts = attribute_texts(FinetuneOptions) | {"weights": weights, "model": model} | attribute_texts(kind)
    add_fields(parser.add_argument, kind, texts=texts, metavars=METAVARS)
    return given_options(kind, parser.parse_args(argv))


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


def one_for_each(option: str, texts: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return a file for each of `names`, from NAME=FILE, whatever the case, or from FILE for the only one.

    Raises:
        InputError: A name has none or several, or there are others.
    """
    if len(names) == len(texts) == 1:
        return {names[0]: texts[0].removeprefix(f"{names[0]}=" if names[0] else "")}
    known = {name.lower(): name for name in names} | {name: name for name in names}
    parts = [text.partition("=") for text in texts]
    found = {known.get(name, known.get(name.lower(), name)): file for name, _, file in parts if file}
    if sorted(found) != sorted(names) or len(found) != len(texts):
        expected = " ".join(f"{name}=FILE" for name in names) if len(names) > 1 else "one FILE"
        raise InputError(f"{option} {' '.join(texts)}: expected {expected}")
    return {name: found[name] for name in names}


def labels_of(weights: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return the labels of a table's sources: of its own ones, or of several that the command line gives."""
    several = [text.partition("=")[0] for text in weights]
    return several if list(sources) == [""] and len(several) > 1 else list(sources)


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
            lam = float(number)
        except ValueError:
            lam = math.nan
        if not 0 <= lam < math.inf:
            raise InputError(f"--lam {text}: λ is a finite number of at least 0")
        for method in chosen:
            lams[method] = tuple(dict.fromkeys((*lams.get(method, ()), lam)))
    return lams
