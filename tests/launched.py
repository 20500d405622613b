"""Runs on two processes that are launched here, and what they left behind."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import timm
import torch
import torch.distributed as dist
from accelerate import Accelerator
from rich.console import Console

from small_data import MODEL, SIZE
from vitreg.train.basics.console import exit_code
from vitreg.train.basics.distributed import connect, rank
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task
from vitreg.train.data.folder import read_folder
from vitreg.train.data.photographs import photo_task
from vitreg.train.data.subset import Share
from vitreg.train.models.start import Start
from vitreg.train.runs.execution import execute
from vitreg.train.runs.plan import Design, Run, plan
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training import checkpoint
from vitreg.train.training.checkpoint import Checkpoints
from vitreg.train.training.device import make_accelerator
from vitreg.train.training.hyperparameters import Hyperparameters

HYPER = Hyperparameters(steps=6, batch_size=4, lr=1e-3, weight_decay=0.05, warmup_epochs=1, smoothing=0.1)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["accelerate", "timm", "torchmetrics", "torchvision", "vitreg"])


class Outcome(NamedTuple):
    """The exit codes of the main process and of the other, and the lines that both wrote."""

    codes: list[int | None]
    said: list[str]
    errors: list[str]


def together(function: Callable[..., int], *given: Any, folder: Path) -> Outcome:
    """Return what became of `function(*given)`, of this file's top level, in two processes.

    As with torchrun the process that starts them keeps the store over which they find each other.
    """
    folder.mkdir()
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = [CONTEXT.Process(target=child, args=(r, store.port, folder, function, given)) for r in range(2)]
    for process in started:
        process.start()
    deadline = time.monotonic() + 300
    for process in started:
        process.join(max(0.1, deadline - time.monotonic()))
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    said, errors = (
        [line for r in range(2) for line in (folder / f"{name}{r}").read_text().splitlines()]
        for name in ("said", "errors")
    )
    return Outcome(codes, said, errors)


def child(place: int, port: int, folder: Path, function: Callable[..., int], given: tuple[Any, ...]) -> None:
    known = {"RANK": place, "LOCAL_RANK": place, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in known.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    torch.set_num_threads(1)
    for descriptor, name in enumerate(("said", "errors"), start=1):
        os.dup2(os.open(folder / f"{name}{place}", os.O_CREAT | os.O_WRONLY), descriptor)
    sys.exit(function(*given))


def create(num_classes: int, drop_path: float) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = timm.create_model(MODEL, num_classes=0, img_size=SIZE, drop_path_rate=drop_path)
    model.reset_classifier(num_classes)
    return model


def task_of(data: Path) -> Task:
    return photo_task(read_folder(data), name="boxed", size=SIZE, augment="rand-m9-mstd0.5-inc1")


def planned(data: Path, methods: tuple[str, ...], hyper: Hyperparameters = HYPER) -> list[Run]:
    design = Design(
        [replace(task_of(data), test_masks=None)],
        [Start(MODEL, "seven", create)],
        methods=methods,
        lams={"GTA": (10.0,), "BSS": (0.01,), "L2-SP": (0.1,), "LP-FT+LwF": (1.0,), "GTA+TransMix": (1.0,)},
        shares=[Share(rate=1.0)],
        seeds=[3],
        hyper=hyper,
        augment="rand-m9-mstd0.5-inc1",
    )
    return plan(design)


def accelerator_of(precision: str) -> Accelerator:
    connect()
    return make_accelerator("cpu", precision)


def stored(out: Path, name: str) -> Any:
    return torch.load(out / f"{name}.pt", weights_only=False)


def executed(data: Path, out: Path, hyper: Hyperparameters, death: int) -> int:
    """Execute runs with a checkpoint every other step; at step `death` all processes are killed."""
    accelerator, save, steps = accelerator_of("no"), Checkpoints.save, itertools.count(1)
    now = [0]

    def counted(self: Checkpoints, training: Any, *, is_last: bool) -> None:
        now[0] = next(steps)
        if now[0] == death:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, training, is_last=is_last)

    # Two clocks that do not agree: the main process alone looks at its own.
    clock = SimpleNamespace(monotonic=lambda: now[0] * (1 if rank() == 0 else 100))
    setattr(checkpoint, "time", clock)  # noqa: B010
    setattr(Checkpoints, "save", counted)  # noqa: B010

    def script(console: Console) -> None:
        place = Workplace(out, accelerator, 0, Progress(console), checkpoint_seconds=2)
        reports = execute(planned(data, ("fine-tune", "GTA"), hyper), place)
        torch.save([(r.metrics, r.log, r.continued) for r in reports], out / f"{rank()}.pt")

    return exit_code(script)
