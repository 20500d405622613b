"""Which pictures a step sees, and how each is augmented."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from vitreg.train.basics.distributed import per_rank, rank
from vitreg.train.data.dataset import TrainingPictures
from vitreg.views import view_seed


class Draw(NamedTuple):
    """A picture by its index, the seed of its augmentation, and its view's number, or -1 if all are new."""

    picture: int
    seed: int
    view: int = -1


@dataclass(frozen=True)
class Batches:
    """Batches of draws for `steps` steps: shuffled passes over `indices`, joined end to end.

    A batch larger than the subset repeats pictures, with other augmentations: nothing is ever dropped, and a
    batch is always full. What is drawn depends on the seed and the step alone, not on the number of worker
    processes, nor on `first`, the step to begin with. Each picture is augmented anew, or, with `views`, in
    one of so many ways, which are the same at every seed.
    """

    indices: Sequence[int]
    _: KW_ONLY
    batch_size: int
    steps: int
    seed: int
    first: int = 0
    views: int = 0

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


class Draws(Dataset[tuple[Any, ...]]):
    """The dataset that turns a draw into a picture, its label, its view and, if wanted, its object's mask."""

    def __init__(self, train: TrainingPictures, labels: Sequence[int], *, has_masks: bool = False) -> None:
        self.train, self.labels, self.has_masks = train, labels, has_masks  # all that a worker is sent

    def __getitem__(self, draw: Draw) -> tuple[Any, ...]:
        picture = self.train.picture(draw.picture, seed=draw.seed)
        found = picture, self.labels[draw.picture], draw.view
        if not self.has_masks:
            return found
        return *found, self.train.mask(draw.picture, seed=draw.seed)


class Slices:
    """The part of each batch that this process takes; all parts together are the batch of one process."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.size = batches, per_rank(batches.batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in self.batches:
            yield batch[rank() * self.size : (rank() + 1) * self.size]
