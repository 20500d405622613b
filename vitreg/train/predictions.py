"""A trained model as a file that says how to use it, and what it predicts."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vitreg.train.data.dataset import Task
from vitreg.train.data.photographs import photo_task
from vitreg.train.data.samples import Folder, Sample
from vitreg.train.models.stored import Card
from vitreg.train.training.evaluation import BATCH_SIZE


@torch.no_grad()
def probabilities(
    model: nn.Module,
    task: Task,
    *,
    accelerator: Accelerator,
    on_batch: Callable[[int], None] = lambda pictures: None,
) -> Tensor:
    """Return what the model makes of the task's test pictures: float32 [pictures, classes]."""
    model.to(accelerator.device).eval()
    found = []
    for pictures in task.test.split(BATCH_SIZE):
        with accelerator.autocast():
            logits = model(task.normalised(pictures.to(accelerator.device)))
        found.append(logits.float().softmax(1).cpu())
        on_batch(len(pictures))
    return torch.cat(found)


def evenly(number: int, *, at_most: int = 8) -> list[int]:
    """Return up to `at_most` of `number` indices, evenly spread: the pictures whose attention is shown."""
    count = min(at_most, number)
    return [int((place + 0.5) * number / count) for place in range(count)]


def predictions(
    names: Sequence[str], classes: Sequence[str], shares: Tensor, labels: Sequence[int] | None = None
) -> str:
    """Return a CSV: path, true class (where it is known), predicted class and its probability."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", *([] if labels is None else ["true"]), "predicted", "probability"])
    for index, (name, share) in enumerate(zip(names, shares, strict=True)):
        best = int(share.argmax())
        true = [] if labels is None else [classes[labels[index]]]
        writer.writerow([name, *true, classes[best], f"{float(share[best]):.4f}"])
    return text.getvalue()


def new_pictures(paths: Sequence[Path], card: Card) -> Iterator[Task]:
    """Return pictures as tasks of a batch each, prepared as the test pictures were; the labels are made up.

    Raises:
        InputError: A picture cannot be read.
    """
    for start in range(0, len(paths), BATCH_SIZE):
        samples = tuple(Sample(path, 0) for path in paths[start : start + BATCH_SIZE])
        folder = Folder(Path(), card.classes, (), samples)
        yield photo_task(folder, name="new", size=card.size, augment="none", mean=card.mean, std=card.std)
