"""How near the recipes' training loop comes to the bare step of its model, and where the rest goes.

The loop (`vitreg/train/training/loop.py`: draw, augment, normalise, step, schedule, log) trains on drawn
stand-ins for photographs, 448 to 600 pixels a side as it keeps them in memory. The bare step has one batch
that lies on the device. Both take turns. Pictures and their normalisation alone show what of the loop is not
the network's.

    python benchmarks/loop.py
    python benchmarks/loop.py --device cuda --amp --batch-size 128 --workers 14 --steps 40
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from report import add_model, at_least, finish, parser
from side_by_side import Row, ratios, wait_for
from training import NUM_CLASSES, make_model

sys.path.append(str(Path(__file__).parents[1] / "recipes"))

from vitreg.train.data.batches import Batches
from vitreg.train.data.dataset import IMAGENET_MEAN, Task
from vitreg.train.data.photographs import Photos
from vitreg.train.data.samples import Sample
from vitreg.train.training.hyperparameters import Hyperparameters
from vitreg.train.training.loop import loader, train

NUM_PICTURES = 300
BARE, LOOP = "bare step", "recipes' loop"
PICTURES, NORMALISE = "pictures alone", "moving and normalising alone"


def drawn_task(size: int, augment: str, *, num_pictures: int = NUM_PICTURES) -> Task:
    """Return a task of `num_pictures` smooth random pictures of 2 to 2.7 times `size` pixels a side."""
    photos = Photos(
        (Sample(Path("drawn"), 0),) * num_pictures, size=size, augment=augment, mean=IMAGENET_MEAN
    )
    drawn = np.random.default_rng(0)
    for index in range(num_pictures):
        coarse = drawn.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        sides = (round(size * 8 / 3), 2 * size)
        photos.keep(index, Image.fromarray(coarse).resize(sides, Image.Resampling.BICUBIC))
    labels = tuple(index % NUM_CLASSES for index in range(num_pictures))
    nothing = torch.zeros(0, 3, size, size, dtype=torch.uint8)
    names = tuple(map(str, range(NUM_CLASSES)))
    return Task("drawn", names, "", size, photos, labels, test=nothing, test_labels=())


def loop_seconds(
    model: nn.Module, task: Task, hyper: Hyperparameters, accelerator: Accelerator, workers: int
) -> float:
    """Return the seconds of a step of the recipes' loop, without its first, which starts the workers."""
    times: list[float] = []

    def note() -> None:
        wait_for(accelerator.device)
        times.append(time.perf_counter())

    indices = range(len(task.train_labels))
    train(model, task, indices, hyper, seed=0, accelerator=accelerator, workers=workers, on_step=note)
    return (times[-1] - times[0]) / (len(times) - 1)


def picture_seconds(batches: Iterable[Sequence[Tensor]], device: torch.device) -> float:
    """Return the seconds of a batch of pictures that nothing is done with, without the first."""
    drawn = iter(batches)
    next(drawn)
    wait_for(device)
    start, taken = time.perf_counter(), 0
    for _ in drawn:
        taken += 1
    wait_for(device)
    return (time.perf_counter() - start) / taken


def bare_step(
    model: nn.Module, task: Task, hyper: Hyperparameters, accelerator: Accelerator
) -> Callable[[], None]:
    """Return a step of the same network and optimiser on one batch that is there."""
    device = accelerator.device
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=hyper.lr, weight_decay=hyper.weight_decay)
    images = torch.randn(hyper.batch_size, 3, task.size, task.size, device=device)
    labels = torch.randint(NUM_CLASSES, (hyper.batch_size,), device=device)

    def step() -> None:
        with accelerator.autocast():
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measured(options: argparse.Namespace) -> dict[str, Row]:
    """Return seconds a step of loop, bare step and pictures alone, as ratios to the bare step's."""
    accelerator = Accelerator(
        cpu=options.device.type == "cpu", mixed_precision="bf16" if options.amp else "no"
    )
    device = accelerator.device
    task = drawn_task(options.size, options.augment)
    hyper = Hyperparameters(
        steps=options.steps + 1,
        batch_size=options.batch_size,
        lr=1e-5,
        weight_decay=0.05,
        views=options.views,
    )
    torch.manual_seed(0)
    bare, looped = (make_model(options.model, size=options.size) for _ in range(2))
    step = bare_step(bare, task, hyper, accelerator)

    def bare_seconds() -> float:
        step()
        wait_for(device)
        start = time.perf_counter()
        for _ in range(options.steps):
            step()
        wait_for(device)
        return (time.perf_counter() - start) / options.steps

    def alone() -> float:
        batches = Batches(
            range(NUM_PICTURES),
            batch_size=hyper.batch_size,
            steps=options.steps + 1,
            seed=0,
            views=hyper.views,
        )
        return picture_seconds(
            loader(task, batches, hyper, accelerator=accelerator, workers=options.workers), device
        )

    def normalise() -> float:
        pictures = torch.zeros(hyper.batch_size, 3, task.size, task.size, dtype=torch.uint8)
        start = time.perf_counter()
        for _ in range(options.steps):
            task.normalise(pictures.to(device, non_blocking=True))
        wait_for(device)
        return (time.perf_counter() - start) / options.steps

    timed = {
        BARE: bare_seconds,
        LOOP: lambda: loop_seconds(looped, task, hyper, accelerator, options.workers),
        PICTURES: alone,
        NORMALISE: normalise,
    }
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    names = list(timed)
    began = time.monotonic()
    for index in range(options.warmup + options.rounds):
        is_over = options.seconds is not None and time.monotonic() - began > options.seconds
        if is_over and index > options.warmup:
            break
        first = index % len(names)
        for name in names[first:] + names[:first]:
            taken = timed[name]()
            if index >= options.warmup:
                seconds[name].append(taken)
    rows = ratios(seconds, dict.fromkeys(names, BARE))
    for row in rows.values():
        row["pictures_per_second"] = hyper.batch_size / float(row["seconds"])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write JSON if asked to; return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    line = parser(__doc__)
    add_model(line)
    line.add_argument("--size", type=at_least(1), default=224, help="pixels a side")
    line.add_argument("--batch-size", type=at_least(1), default=16)
    line.add_argument("--steps", type=at_least(1), default=3, help="of a round")
    line.add_argument("--augment", default="rand-m9-mstd0.5-inc1", help="as of the recipes")
    line.add_argument("--workers", type=at_least(0), default=0, help="processes that augment")
    views = "augment each picture in so many ways only, and keep them (0: anew each time)"
    line.add_argument("--views", type=at_least(0), default=0, help=views)
    options = line.parse_args(argv)
    if options.compile:
        line.error("the recipes do not compile: leave --compile out")
    rows = measured(options)
    finish("loop", options, argv, rows)
    share = float(rows[BARE]["seconds"]) / float(rows[LOOP]["seconds"])
    print(f"{rows[LOOP]['pictures_per_second']:.1f} pictures a second, {share:.3f} of the bare step's")
    return 0


if __name__ == "__main__":
    sys.exit(main())
