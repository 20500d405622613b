"""One run, from its configuration to its report: trained, measured, stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file, save
from torch import Tensor, nn

import vitreg
from vitreg.errors import InputError
from vitreg.files import check_sums, write_atomically
from vitreg.measure import attention_drift
from vitreg.train.basics.distributed import gather, on_main
from vitreg.train.data.dataset import Task, evenly
from vitreg.train.data.subset import trained_and_held_out
from vitreg.train.data.subset_lists import write_subset_list
from vitreg.train.runs.plan import TRAINING_COST, Run
from vitreg.train.runs.predictions import PREDICTIONS, predictions
from vitreg.train.runs.report import DONE, Report, load_report, store_report
from vitreg.train.runs.tracking import track
from vitreg.train.runs.workplace import Workplace, machine
from vitreg.train.training.checkpoint import Checkpoints, discard
from vitreg.train.training.device import unfuse_attention
from vitreg.train.training.evaluation import as_entry, evaluate
from vitreg.train.training.loop import train
from vitreg.train.training.methods import METHODS, SOURCE, target_of
from vitreg.train.training.probe_head import fit_probe_head, probe_metrics, related_source
from vitreg.train.training.state import Entry, Measurement
from vitreg.views import random_numbers
from vitreg.wording import first_line

MODEL_FILE = "model.safetensors"
NUM_DRIFT = 32
"""Test pictures, taken evenly, on which the attention is compared with the source's during the training."""

TRAIN_LIST = "train.csv"
"""The files that a run was trained on, in the form that `--subset` reads."""


def load_finished(run: Run, out: Path, *, keeps_model: bool = False) -> Report | None:
    """Return the report of `run` in `out`, or None if it is not finished, or has no model that is needed."""
    report = load_report(out, run.configuration)
    if report is None or not keeps_model or run.configuration.method == SOURCE:
        return report
    return report if (out / run.configuration.folder / MODEL_FILE).is_file() else None


def complete(run: Run, place: Workplace) -> Report:
    """Train and measure `run`, store its report and return it.

    The caller holds the lock of the run's folder. An interrupted run continues from its checkpoint. Several
    processes do it together, and return one report.
    """
    c, folder = run.configuration, place.out / run.configuration.folder
    checkpoints = checkpoints_of(run, place)
    pictures = 0 if c.hyper is None else TRAINING_COST * c.hyper.batch_size
    probes: list[vitreg.LinearProbe] = []
    with track(place.trackers, c, folder) as tell:
        model, log = trained_model(
            run,
            accelerator=place.accelerator,
            workers=place.workers,
            on_start=place.progress.begin_steps,
            on_step=lambda: place.progress.advance(pictures),
            on_entry=tell,
            checkpoints=checkpoints,
            readings=readings_in(place.out, run),
            on_probe=probes.append,
        )
    place.progress.advance(len(training_indices(run)) if c.hyper is None else 0)
    task = measured_task(run)
    own_logits: list[Tensor] = []
    metrics = evaluate(
        model,
        task,
        accelerator=place.accelerator,
        has_head=c.method != SOURCE,
        on_batch=place.progress.advance,
        on_logits=own_logits.append,
    )
    if probes:
        metrics["probe"] = probe_metrics(probes[0])
    logits = torch.cat([part for each in gather(own_logits) for part in each])  # the processes' in order

    report = Report(c, metrics, log, checkpoints.seconds, machine(place.accelerator), checkpoints.continued)

    def store() -> Report:
        (folder / DONE).unlink(missing_ok=True)  # of a run without its model: it vouches for what is replaced
        beside = []
        if place.keeps_models and c.method != SOURCE:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
            write_atomically(folder / MODEL_FILE, save(tensors))
            beside.append(MODEL_FILE)
        if task.train_names and c.share is not None:
            labels = [task.classes[label] for label in task.train_labels]
            listed = write_subset_list(task.train_names, labels, training_indices(run))
            # Names of files may be anything, and are the same when they are read again.
            write_atomically(folder / TRAIN_LIST, listed.encode(errors="surrogateescape"))
            beside.append(TRAIN_LIST)
        if c.method != SOURCE:
            names = task.test_names or tuple(map(str, range(len(task.test_labels))))
            made = predictions(names, task.classes, logits.float().softmax(1), task.test_labels)
            write_atomically(folder / PREDICTIONS, made)
            beside.append(PREDICTIONS)
        store_report(place.out, report, beside=beside)
        discard(folder)
        return report

    return on_main(store)


def stored_model(run: Run, out: Path) -> nn.Module:
    """Return the trained model of a finished run that kept it; the source is returned as it is.

    Raises:
        InputError: The stored weights cannot be read.
    """
    model = run.start.create(len(run.task.classes), 0.0)
    if run.configuration.method == SOURCE:
        return model
    path = out / run.configuration.folder / MODEL_FILE
    try:
        check_sums(path.parent / DONE, [MODEL_FILE])
        model.load_state_dict(load_file(path))
    except Exception as error:  # whatever the broken bytes lead the reader into
        raise InputError(f"{path} is broken ({first_line(error)}); delete it to train it again") from error
    return model


def checkpoints_of(run: Run, place: Workplace) -> Checkpoints:
    """Return the checkpoint of `run`, for a caller that holds the lock of the run's folder."""
    c, here = run.configuration, machine(place.accelerator)
    if c.hyper is not None and c.hyper.fsdp:
        here["processes"] = "fsdp"  # any number of which can take it up
    owner = {"configuration": c.identity, "machine": here}
    return Checkpoints(
        place.out / c.folder,
        owner,
        say=lambda text: place.progress.say(f"{run.title}: {text}"),
        every=place.checkpoint_seconds,
    )


def readings_in(out: Path, run: Run) -> Path:
    """Return where in `out` is kept what sources read of the views of a run's pictures, for all runs."""
    c = run.configuration
    drawn_by = [version(package) for package in ("torch", "torchvision", "timm", "pillow", "numpy")]
    pictures = json.dumps([c.data_fingerprint, c.size, c.augment, c.formula, drawn_by])
    return out / "readings" / f"{c.data}-{hashlib.sha256(pictures.encode()).hexdigest()[:10]}"


def training_indices(run: Run) -> list[int]:
    """Return the indices of the pictures that `run` trains on."""
    return _split_indices(run)[0]


def measured_task(run: Run) -> Task:
    """Return the task that `run` is measured on: with its held-out pictures in place of the test pictures."""
    return run.task.held_out(_split_indices(run)[1]) if run.configuration.hold_out else run.task


def _split_indices(run: Run) -> tuple[list[int], list[int]]:
    c = run.configuration
    if c.share is None:
        return [], []
    return trained_and_held_out(run.task, c.share, c.hold_out, seed=c.seed)


def trained_model(
    run: Run,
    *,
    accelerator: Accelerator,
    workers: int,
    on_start: Callable[[], None] = lambda: None,
    on_step: Callable[[], None] = lambda: None,
    on_entry: Callable[[Entry], None] = lambda entry: None,
    checkpoints: Checkpoints | None = None,
    readings: Path | None = None,
    on_probe: Callable[[vitreg.LinearProbe], None] = lambda probe: None,
) -> tuple[nn.Module, list[Entry]]:
    """Return the run's model, trained, and the training's log; the source is returned as it is.

    `on_start`, `on_step` and `on_entry` are told what `train` says. `on_probe` is told of the linear probe
    whose head the method starts from, or is. What a source reads of a finite number of views is kept in the
    folder `readings`, in memory without one.
    """
    c, task = run.configuration, run.task
    model = start_model(run, accelerator=accelerator, on_probe=on_probe)
    if c.share is None or c.hyper is None:
        return model, []
    method, indices = METHODS[c.method], training_indices(run)
    start = {name: value.clone() for name, value in model.state_dict().items()} if method.alpha < 1 else {}

    looked = evenly(len(task.test), at_most=NUM_DRIFT)

    def measure(model: nn.Module) -> Entry:
        entry = as_entry(evaluate(model, task, accelerator=accelerator))
        if task.test_masks is None:
            return entry
        with random_numbers(0):  # those of the training stay as they are, whatever its unused head takes
            source = run.start.create(len(task.classes), 0.0).to(accelerator.device)
        images = task.normalise(task.test[looked].to(accelerator.device))
        with accelerator.autocast():
            drift = attention_drift(model, source, images).mean()
        return entry | {"drift": float(drift)}

    log = train(
        model,
        task,
        indices,
        c.hyper,
        method=c.method,
        lam=c.lam,
        seed=c.seed,
        accelerator=accelerator,
        workers=workers,
        measure=Measurement(c.measure_every, measure) if c.measure_every else None,
        on_start=on_start,
        on_step=on_step,
        on_entry=on_entry,
        checkpoints=checkpoints,
        readings=readings,
        whole=related_source(target_of(c.method, c.lam), run.start, task, indices, accelerator=accelerator),
    )
    if method.alpha < 1:
        vitreg.interpolate(model, start, method.alpha)
    return model, log


def start_model(
    run: Run, *, accelerator: Accelerator, on_probe: Callable[[vitreg.LinearProbe], None] = lambda probe: None
) -> nn.Module:
    """Return what the run's training starts from, with its head; `on_probe` as in `trained_model`."""
    c = run.configuration
    # All of a run's random numbers come from its seed, so it does not matter which runs came before it.
    set_seed(c.seed)
    model = run.start.create(len(run.task.classes), 0.0 if c.hyper is None else c.hyper.drop_path)
    if not c.fused_attention:
        unfuse_attention(model)
    if c.share is not None and METHODS[c.method].head == "probe":  # it leaves the random numbers as they are
        on_probe(fit_probe_head(model, run.task, training_indices(run), accelerator=accelerator))
    return model
