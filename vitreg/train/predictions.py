"""A trained model as a file that says how to use it, and what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vitreg.errors import InputError
from vitreg.train.data.dataset import Task
from vitreg.train.data.photographs import Photos, read_pictures
from vitreg.train.models.stored import Card
from vitreg.train.runs.predictions import predictions
from vitreg.train.training.evaluation import BATCH_SIZE

__all__ = ["evenly", "new_pictures", "predictions", "probabilities"]


@torch.no_grad()
def probabilities(
    model: nn.Module,
    task: Task,
    *,
    accelerator: Accelerator,
    on_batch: Callable[[int], None] = lambda pictures: None,
) -> Tensor:
    """Return what the model makes of the task's test pictures: float32 [pictures, classes].

    Raises:
        InputError: It makes values of them that are not finite.
    """
    model.to(accelerator.device).eval()
    found = []
    for pictures in task.test.split(BATCH_SIZE):
        with accelerator.autocast():
            logits = model(task.normalise(pictures.to(accelerator.device)))
        found.append(logits.float().softmax(1).cpu())
        on_batch(len(pictures))
    shares = torch.cat(found)
    if not torch.isfinite(shares).all():
        raise InputError(
            "expected numbers from the model, found values that are not finite: its weights are damaged, or "
            "bf16 is too coarse for them; train it again, or with --precision no"
        )
    return shares


def evenly(number: int, *, at_most: int = 8) -> list[int]:
    """Return up to `at_most` of `number` indices, evenly spread: the pictures whose attention is shown."""
    count = min(at_most, number)
    return [int((place + 0.5) * number / count) for place in range(count)]


class NewPictures(NamedTuple):
    """A batch of new pictures as a task, whose labels are made up, or None if none of them can be read.

    `paths` are those of the task's pictures, and `refused` says of the others why they cannot be read.
    """

    task: Task | None
    paths: tuple[Path, ...]
    refused: tuple[str, ...]


def new_pictures(paths: Sequence[Path], card: Card) -> Iterator[NewPictures]:
    """Yield pictures batch by batch, prepared as the test pictures were."""
    for start in range(0, len(paths), BATCH_SIZE):
        batch = paths[start : start + BATCH_SIZE]
        results = list(zip(batch, read_pictures(batch, card.size), strict=True))
        read = [(path, found) for path, found in results if isinstance(found, Tensor)]
        refused = tuple(str(found) for _, found in results if not isinstance(found, Tensor))
        task = None
        if read:
            task = Task(
                name="new",
                classes=card.classes,
                fingerprint="",
                size=card.size,
                train=Photos((), size=card.size, augment="none", mean=card.mean),
                train_labels=(),
                test=torch.stack([picture for _, picture in read]),
                test_labels=(0,) * len(read),
                mean=card.mean,
                std=card.std,
            )
        yield NewPictures(task, tuple(path for path, _ in read), refused)
