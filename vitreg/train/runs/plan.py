"""A table's runs, planned and checked before the first of them is trained."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

import vitreg
from vitreg.errors import InputError
from vitreg.parameters.linear_head import LinearHead
from vitreg.train.data.dataset import Task
from vitreg.train.data.subset import Share, subset, trained_and_held_out
from vitreg.train.models.start import Start
from vitreg.train.runs.report import Cell, Configuration
from vitreg.train.training.composition import needs_masks
from vitreg.train.training.device import checkpoint_blocks, drops, unfuse_attention
from vitreg.train.training.formulas import formula
from vitreg.train.training.guided_model import Applied, Whole
from vitreg.train.training.hyperparameters import Hyperparameters
from vitreg.train.training.methods import METHODS, SOURCE, is_guided, target_of

TRAINING_COST = 3
"""Of a picture that is trained on, in pictures that are evaluated; for the estimate of the time left."""


@dataclass(frozen=True)
class Run:
    """A configuration, with the things in memory it is about."""

    configuration: Configuration
    task: Task
    start: Start

    @property
    def title(self) -> str:
        """The run, for the person who waits for it."""
        c = self.configuration
        where = f"{c.data} from {self.start.label}" if self.start.label else c.data
        if c.method == SOURCE:
            return f"{where}: attention before training"
        lam = "" if c.lam is None else f" λ={c.lam:g}"
        return f"{where}: {c.method}{lam}, {c.share}, seed {c.seed}{', validation' if c.hold_out else ''}"

    @property
    def cost(self) -> int:
        """The run's work, in pictures that are evaluated."""
        c, evaluated = self.configuration, len(self.task.test)
        if c.hyper is not None:
            return TRAINING_COST * c.hyper.steps * c.hyper.batch_size + evaluated
        if c.share is None:
            return evaluated
        fitted, _ = trained_and_held_out(self.task, c.share, c.hold_out, seed=c.seed)
        return len(fitted) + evaluated  # a linear probe sees each picture once


@dataclass(frozen=True)
class Design:
    """What a table compares: every source on every task, with every method, share and seed.

    Attributes:
        lams: for each method that has a λ, the values to be tried.
        hold_out: as in `Configuration`, and so are `measure_every` and `fused_attention`.
        epochs: passes over a run's training pictures, which then decide its steps; None for those of `hyper`.
    """

    tasks: Sequence[Task]
    starts: Sequence[Start]
    methods: Sequence[str]
    lams: Mapping[str, Sequence[float]]
    shares: Sequence[Share]
    seeds: Sequence[int]
    hyper: Hyperparameters
    augment: str
    precision: str = "no"
    fused_attention: bool = True
    hold_out: float = 0.0
    measure_every: int | str = 0
    epochs: float | None = None


def plan(design: Design, chosen: Mapping[Cell, float] | None = None) -> list[Run]:
    """Return the runs of a table, the first seed of everything before the second of anything.

    `chosen` is the one λ of a cell; in the others all λ of the design are run.

    Raises:
        InputError: A share leaves a class empty, a class has nothing to be held out, or a method cannot be
            used with a model.
    """
    runs: list[Run] = []
    for task in design.tasks:
        _check_pictures(design, task)
    for start in design.starts:
        _check_start(design, start)
    for task in design.tasks:
        if task.test_masks is not None:
            runs += [
                _run(design, task, start, method=SOURCE, lam=None, share=None, seed=0)
                for start in design.starts
            ]
        cells = itertools.product(design.seeds, design.shares, design.starts, design.methods)
        for seed, share, start, method in cells:
            cell = (start.fingerprint, task.name, share, method)
            lams = [chosen[cell]] if chosen and cell in chosen else _lams(design, method)
            runs += [
                _run(design, task, start, method=method, lam=lam, share=share, seed=seed) for lam in lams
            ]
    return runs


def plan_search(design: Design, hold_out: float) -> list[Run]:
    """Return the runs that choose the λ of the methods with several, without a look at the test pictures.

    Raises:
        InputError: As `plan`, or a class has only one training picture.
    """
    if not 0 < hold_out < 1:
        raise InputError(f"a share between 0 and 1 has to be held out to choose by, found {hold_out:g}")
    several = [method for method in design.methods if len(_lams(design, method)) > 1]
    search = replace(design, methods=several, hold_out=hold_out, measure_every=0)
    return [run for run in plan(search) if run.configuration.method != SOURCE]


def _lams(design: Design, method: str) -> Sequence[float | None]:
    return design.lams[method] if is_guided(method) else (None,)


def _run(
    design: Design,
    task: Task,
    start: Start,
    *,
    method: str,
    lam: float | None,
    share: Share | None,
    seed: int,
) -> Run:
    hyper, is_trained = design.hyper, method != SOURCE and METHODS[method].is_trained
    if is_trained and share is not None and design.epochs is not None:
        num_pictures = len(subset(task, share, seed=seed))
        hyper = replace(hyper, steps=max(1, round(design.epochs * num_pictures / hyper.batch_size)))
    if is_trained:
        hyper = replace(hyper, lr=hyper.lr * METHODS[method].lr_factor)
    if is_trained and not METHODS[method].has_weight_decay:
        hyper = replace(hyper, weight_decay=0.0)
    if not is_guided(method):
        # Without a penalty it is one run, whatever they are.
        hyper = replace(hyper, every=1, fraction=1.0, balance=0.0)
    configuration = Configuration(
        data=task.name,
        data_fingerprint=task.fingerprint,
        model=start.name,
        weights=start.fingerprint,
        size=task.size,
        augment=design.augment,
        method=method,
        lam=lam,
        share=share,
        seed=seed,
        hyper=hyper if is_trained else None,
        precision=design.precision,
        fused_attention=design.fused_attention,
        hold_out=0.0 if method == SOURCE else design.hold_out,
        measure_every=design.measure_every if is_trained else 0,
        formula="" if method == SOURCE else formula(method),
    )
    return Run(configuration, task, start)


def _check_pictures(design: Design, task: Task) -> None:
    for seed, share in itertools.product(design.seeds, design.shares):
        used, _ = trained_and_held_out(task, share, design.hold_out if design.methods else 0.0, seed=seed)
        for method in design.methods:
            _check_outlines(task, used, method, design.augment)


def _check_start(design: Design, start: Start) -> None:
    model = start.create(2, 0.0)
    if not design.fused_attention:
        unfuse_attention(model)
    if design.hyper.grad_checkpointing:
        checkpoint_blocks(model)
    if any(task.test_masks is not None for task in design.tasks):
        with vitreg.trace(model, "attn_probs"):  # what the evaluation reads
            pass
    for method in design.methods:
        if design.hyper.batch_size % 2 and (METHODS[method].transmix or design.hyper.mixing):
            raise InputError(
                f"{method} mixes pictures in pairs: --batch-size {design.hyper.batch_size} has to be even"
            )
        for lam in _lams(design, method):
            _check_method(model, method, lam, start, design.hyper)


def _check_outlines(task: Task, used: Sequence[int], method: str, augment: str) -> None:
    if not needs_masks(target_of(method, 1.0)):
        return
    if not task.outlined.intersection(used):
        raise InputError(
            f"{method} needs to know where objects are; {task.name} says it of none of {len(used)} training "
            "pictures: give them boxes or trimaps in index.csv"
        )
    if augment not in ("crop", "none"):
        raise InputError(f"{method}: --augment {augment} does not move masks as it moves pictures; use crop")


def _check_method(
    model: nn.Module, method: str, lam: float | None, start: Start, hyper: Hyperparameters
) -> None:
    target, whole, name = target_of(method, lam), None, start.name
    try:
        if isinstance(target, vitreg.CoTuning):
            whole = Whole(start.whole(), torch.zeros(2, 1))
        if isinstance(target, vitreg.PassPenalty) and not drops(start.create(2, hyper.drop_path)):
            raise InputError("its two passes are the same where nothing is dropped; add --drop-path 0.1")
        with Applied(model, method, lam, hyper, num_classes=2, whole=whole) as applied:
            applied.project(torch.optim.SGD(model.parameters()))
        if METHODS[method].head == "probe":
            LinearHead(model)
    except vitreg.VitregError as error:
        value = "" if lam is None else f" with λ={lam:g}"
        raise InputError(f"{method}{value} cannot be used with {name}: {error}") from error
