"""Two small runs, of fine-tuning and of GTA, that take a second each."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from accelerate import Accelerator
from rich.console import Console

from small_data import MODEL, SIZE, write_index, write_picture
from vitreg.train.basics.progress import Progress
from vitreg.train.data.folder import read_folder
from vitreg.train.data.photographs import photo_task
from vitreg.train.data.subset import Share
from vitreg.train.models.start import Start
from vitreg.train.runs.plan import Design, Run, plan
from vitreg.train.runs.run import trained_model
from vitreg.train.training import checkpoint
from vitreg.train.training.checkpoint import Checkpoints
from vitreg.train.training.hyperparameters import Hyperparameters

AUGMENT = "rand-m9-mstd0.5-inc1"
# With a drop path of 0.5 every step depends on the random numbers drawn in it.
HYPER = Hyperparameters(
    steps=8, batch_size=4, lr=1e-3, weight_decay=0.05, warmup_epochs=1, smoothing=0.1, drop_path=0.5
)

METHODS = ("fine-tune", "GTA")


def create(num_classes: int, drop_path: float) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = timm.create_model(MODEL, num_classes=0, img_size=SIZE, drop_path_rate=drop_path)
    model.reset_classifier(num_classes)  # the new head is drawn from the run's own seed
    return model


def planned(
    data: Path,
    methods: tuple[str, ...] = METHODS,
    lams: Mapping[str, tuple[float, ...]] | None = None,
    hyper: Hyperparameters = HYPER,
) -> list[Run]:
    task = photo_task(read_folder(data), name="indexed", size=SIZE, augment=AUGMENT)
    design = Design(
        [replace(task, test_masks=None)],
        [Start(MODEL, "seven", create)],
        methods=methods,
        lams={"GTA": (10.0,)} if lams is None else lams,
        shares=[Share(rate=1.0)],
        seeds=[3],
        hyper=hyper,
        augment=AUGMENT,
    )
    return plan(design)


def write_pictures(root: Path) -> None:
    """Write two classes of six pictures, four of them to train on."""
    rows = []
    for label, number in itertools.product(range(2), range(6)):
        write_picture(root / f"{label}{number}.png", seed=50 * label + number)
        rows.append([f"{label}{number}.png", str(label), "train" if number < 4 else "test"])
    write_index(root, rows, ["path", "label", "split"])


def with_hyper(run: Run, seed: int | None = None, **options: Any) -> Run:
    c = run.configuration
    assert c.hyper is not None
    seed = c.seed if seed is None else seed
    return replace(run, configuration=replace(c, seed=seed, hyper=replace(c.hyper, **options)))


def log_of(run: Run, readings: Path | None = None) -> list[dict[str, float]]:
    return trained_model(run, accelerator=Accelerator(cpu=True), workers=0, readings=readings)[1]


def quiet() -> Progress:
    return Progress(Console(file=io.StringIO(), force_terminal=False))


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the checkpoints' clock stand still but for one second a step."""
    now, save = [0], Checkpoints.save

    def counted(self: Checkpoints, training: Any, *, is_last: bool) -> None:
        now[0] += 1
        save(self, training, is_last=is_last)

    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Checkpoints, "save", counted)
    return now
