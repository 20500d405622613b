"""A table's runs: planned, executed where they are not finished yet, and handed back as reports."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

import vitreg
from engine.checkpoint import SECONDS, Checkpoints, discard
from engine.errors import RecipeError
from engine.evaluate import evaluate
from engine.methods import SOURCE, is_guided, target_of
from engine.progress import Progress
from engine.runs import Configuration, Report, load_report, lock, store_report
from engine.subset import Share, stratified
from engine.task import Task
from engine.train import Hyperparameters, train

TRAINING_COST = 3
"""Of a picture that is trained on, in pictures that are evaluated; for the estimate of the time left."""


@dataclass(frozen=True)
class Start:
    """What all methods start from: `create(num_classes, drop_path)` returns the source with a new head."""

    name: str
    fingerprint: str
    create: Callable[[int, float], nn.Module] = field(repr=False)


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
        if c.method == SOURCE:
            return f"{c.data}: attention before training"
        lam = "" if c.lam is None else f" λ={c.lam:g}"
        return f"{c.data}: {c.method}{lam}, {c.share}, seed {c.seed}"

    @property
    def cost(self) -> int:
        """The run's work, in pictures that are evaluated."""
        hyper = self.configuration.hyper
        trained = 0 if hyper is None else hyper.steps * hyper.batch_size
        return TRAINING_COST * trained + len(self.task.test)


def plan(
    tasks: Iterable[Task],
    start: Start,
    *,
    methods: Sequence[str],
    lams: Mapping[str, Sequence[float]],
    shares: Sequence[Share],
    seeds: Sequence[int],
    hyper: Hyperparameters,
    augment: str,
    precision: str = "no",
) -> list[Run]:
    """Return the runs of a table, the first seed of everything before the second of anything.

    Raises:
        RecipeError: A share leaves a class empty, or a method cannot be attached to the model.
    """
    runs: list[Run] = []
    for task in tasks:
        _check(task, start, methods=methods, lams=lams, shares=shares)

        def configured(
            method: str,
            lam: float | None,
            share: Share | None,
            seed: int,
            hyper: Hyperparameters | None,
            task: Task = task,
        ) -> Run:
            fixed = (task.name, task.fingerprint, start.name, start.fingerprint, task.size, augment)
            return Run(Configuration(*fixed, method, lam, share, seed, hyper, precision), task, start)

        if task.test_masks is not None:
            runs.append(configured(SOURCE, None, None, 0, None))
        runs += [
            configured(method, lam, share, seed, hyper)
            for seed in seeds
            for share in shares
            for method in methods
            for lam in (lams[method] if is_guided(method) else (None,))
        ]
    return runs


def _check(
    task: Task,
    start: Start,
    *,
    methods: Sequence[str],
    lams: Mapping[str, Sequence[float]],
    shares: Sequence[Share],
) -> None:
    for share in shares:
        stratified(task.train_labels, share, seed=0, classes=task.classes)
    model = start.create(len(task.classes), 0.0)
    if task.test_masks is not None:
        with vitreg.trace(model, "attn_probs"):  # what the evaluation reads
            pass
    for method in filter(is_guided, methods):
        for lam in lams[method]:
            _check_method(model, method, lam, start.name)


def _check_method(model: nn.Module, method: str, lam: float, name: str) -> None:
    target = target_of(method, lam)
    try:
        if target is not None:
            vitreg.attach(model, None, target=target).remove()
    except vitreg.VitregError as error:
        raise RecipeError(f"{method} with λ={lam:g} cannot be attached to {name}: {error}") from error


def execute(
    runs: Sequence[Run],
    out: Path,
    *,
    accelerator: Accelerator,
    workers: int,
    progress: Progress,
    checkpoint_seconds: float = SECONDS,
) -> list[Report]:
    """Return the reports of all runs, after running those that are not finished.

    Another process may work on the same folder: a run it holds is left for last, and then waited for.
    An interrupted run continues from its checkpoint, written every `checkpoint_seconds`, or never for 0.
    """
    reports: dict[str, Report] = {}
    pending: list[Run] = []
    for run in runs:
        report = load_report(out, run.configuration)
        if report is None:
            pending.append(run)
        else:
            discard(out / run.configuration.folder)  # it was killed after its DONE
            reports[run.configuration.folder] = report
    progress.begin(sum(run.cost for run in pending), num_runs=len(pending), num_finished=len(reports))
    for wait in (False, True):
        for run in list(pending):
            with lock(out / run.configuration.folder, wait=wait) as is_held:
                if not is_held:
                    continue
                report = load_report(out, run.configuration)  # the other may have finished it meanwhile
                if report is None:
                    progress.start_run(run.title)
                    checkpoints = checkpoints_of(run, out, accelerator, progress, every=checkpoint_seconds)
                    report = _run(run, checkpoints, accelerator, progress, workers=workers)
                    store_report(out, report)
                    discard(out / run.configuration.folder)
                    progress.finish_run(run.title, report.metrics, report.seconds)
                else:
                    progress.advance(run.cost)
            pending.remove(run)
            reports[run.configuration.folder] = report
    return [reports[run.configuration.folder] for run in runs]


def checkpoints_of(
    run: Run, out: Path, accelerator: Accelerator, progress: Progress, *, every: float = SECONDS
) -> Checkpoints:
    """Return the checkpoint of `run` in `out`, for a caller that holds the lock of the run's folder."""
    folder = out / run.configuration.folder
    owner = {"configuration": asdict(run.configuration), "machine": machine(accelerator)}
    return Checkpoints(folder, owner, say=lambda text: progress.say(f"{run.title}: {text}"), every=every)


def _run(
    run: Run, checkpoints: Checkpoints, accelerator: Accelerator, progress: Progress, *, workers: int
) -> Report:
    c = run.configuration
    pictures = 0 if c.hyper is None else TRAINING_COST * c.hyper.batch_size
    model, log = trained_model(
        run,
        accelerator=accelerator,
        workers=workers,
        on_step=lambda: progress.advance(pictures),
        checkpoints=checkpoints,
    )
    metrics = evaluate(
        model, run.task, accelerator=accelerator, has_head=c.method != SOURCE, on_batch=progress.advance
    )
    return Report(c, metrics, log, checkpoints.seconds, machine(accelerator), checkpoints.continued)


def trained_model(
    run: Run,
    *,
    accelerator: Accelerator,
    workers: int,
    on_step: Callable[[], None],
    checkpoints: Checkpoints | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Return the run's model, trained, and the training's log; the source is returned as it is."""
    c, task = run.configuration, run.task
    # All of a run's random numbers come from its seed, so it does not matter which runs came before it.
    set_seed(c.seed)
    model = run.start.create(len(task.classes), 0.0 if c.hyper is None else c.hyper.drop_path)
    if c.hyper is None or c.share is None:
        return model, []
    indices = stratified(task.train_labels, c.share, seed=c.seed, classes=task.classes)
    log = train(
        model,
        task,
        indices,
        c.hyper,
        target=target_of(c.method, c.lam),
        seed=c.seed,
        accelerator=accelerator,
        workers=workers,
        on_step=on_step,
        checkpoints=checkpoints,
    )
    return model, log


def machine(accelerator: Accelerator) -> dict[str, Any]:
    """Return what a run ran on: device, instructions, threads, and versions that may change its figures."""
    device = accelerator.device
    packages = ("torch", "torchvision", "timm", "accelerate", "torchmetrics", "numpy", "pillow")
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {"vitreg": vitreg.__version__, **{package: version(package) for package in packages}},
    }
