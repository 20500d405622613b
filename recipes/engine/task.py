"""What a run needs to know of a data set, drawn or photographed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vitreg.views import view_seed

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class TrainingPictures(Protocol):
    """Training pictures by index, augmented with the random numbers of `seed` alone."""

    def picture(self, index: int, *, seed: int) -> Tensor:
        """Return picture `index` as uint8 [3, size, size]."""

    def plain(self, index: int) -> Tensor:
        """Return picture `index` as a test picture is seen, without chance: uint8 [3, size, size]."""


@dataclass(frozen=True)
class Task:
    """A classification task with its test pictures as the network sees them, before normalisation.

    `test` is uint8 [n, 3, size, size]; `test_masks` is bool [n, size, size], true on the object, or None
    where nobody said where the objects are. `train_names` are the training pictures' files, relative to the
    data's folder; `lists` are subsets of the training pictures that were given as lists of files, by name.
    """

    name: str
    classes: tuple[str, ...]
    fingerprint: str
    size: int
    train: TrainingPictures = field(repr=False)
    train_labels: tuple[int, ...] = field(repr=False)
    test: Tensor = field(repr=False)
    test_labels: tuple[int, ...] = field(repr=False)
    test_masks: Tensor | None = field(default=None, repr=False)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    train_names: tuple[str, ...] = field(default=(), repr=False)
    lists: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)

    def held_out(self, indices: Sequence[int]) -> Task:
        """Return the task with the training pictures `indices` as its test pictures; they stay in `train`."""
        return replace(
            self,
            test=torch.stack([self.train.plain(index) for index in indices]),
            test_labels=tuple(self.train_labels[index] for index in indices),
            test_masks=None,
        )

    def normalised(self, pictures: Tensor) -> Tensor:
        """Return uint8 pictures [b, 3, size, size] as float32 with the model's mean and deviation."""
        mean, std = (
            torch.tensor(values, device=pictures.device).view(3, 1, 1) for values in (self.mean, self.std)
        )
        return (pictures.float() / 255 - mean) / std


class Draw(NamedTuple):
    """A picture by its index, the seed of its augmentation, and its view's number, or -1 if all are new."""

    picture: int
    seed: int
    view: int = -1


class Batches:
    """Batches of draws for `steps` steps: shuffled passes over `indices`, joined end to end.

    A batch larger than the subset repeats pictures, with other augmentations: nothing is ever dropped, and a
    batch is always full. What is drawn depends on the seed and the step alone, not on the number of worker
    processes, nor on `first`, the step to begin with. Each picture is augmented anew, or, with `views`, in
    one of so many ways, which are the same at every seed.
    """

    def __init__(
        self,
        indices: Sequence[int],
        *,
        batch_size: int,
        steps: int,
        seed: int,
        first: int = 0,
        views: int = 0,
    ) -> None:
        self.indices = list(indices)
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        self.first = first
        self.views = views

    def __len__(self) -> int:
        return self.steps - self.first

    def __iter__(self) -> Iterator[list[Draw]]:
        passes = np.random.default_rng([self.seed, 1])
        waiting: list[int] = []
        for step in range(self.steps):
            while len(waiting) < self.batch_size:
                waiting += [self.indices[place] for place in passes.permutation(len(self.indices))]
            batch, waiting = waiting[: self.batch_size], waiting[self.batch_size :]
            if step < self.first:
                continue
            seeds = np.random.SeedSequence([self.seed, 2, step]).generate_state(self.batch_size)
            yield [self._draw(index, int(seed)) for index, seed in zip(batch, seeds, strict=True)]

    def _draw(self, index: int, seed: int) -> Draw:
        if not self.views:
            return Draw(index, seed)
        number = index * self.views + seed % self.views
        return Draw(index, view_seed(0, number), number)


class Draws(Dataset[tuple[Tensor, int, int]]):
    """The dataset that turns a draw into a picture, its label and its view; for use with `Batches`."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int, int]:
        picture = self.task.train.picture(draw.picture, seed=draw.seed)
        return picture, self.task.train_labels[draw.picture], draw.view
