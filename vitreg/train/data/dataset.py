"""What a run needs to know of a data set, drawn or photographed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return pictures [b, 3, size, size] of 0 to 255 as float32 with this mean and deviation of 0 to 1."""
    middle, spread = (torch.tensor(values, device=pictures.device).view(3, 1, 1) for values in (mean, std))
    return (pictures.float() / 255 - middle) / spread


def evenly(number: int, *, at_most: int = 8) -> list[int]:
    """Return up to `at_most` of `number` indices, evenly spread: the pictures that are shown or looked at."""
    count = min(at_most, number)
    return [int((place + 0.5) * number / count) for place in range(count)]


class Statistics(NamedTuple):
    """Mean and deviation of the network's input, by channel."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


class TrainingPictures(Protocol):
    """Training pictures by index, augmented with the random numbers of `seed` alone."""

    def picture(self, index: int, *, seed: int) -> Tensor:
        """Return picture `index` as uint8 [3, size, size]."""

    def plain(self, index: int) -> Tensor:
        """Return picture `index` as a test picture is seen, without chance: uint8 [3, size, size]."""

    def mask(self, index: int, *, seed: int) -> Tensor:
        """Return bool [size, size], true on the object of `picture(index, seed)`; nowhere if not known."""


@dataclass(frozen=True)
class Task:
    """A classification task with its test pictures as the network sees them, before normalisation.

    `test` is uint8 [n, 3, size, size]; `test_masks` is bool [n, size, size], true on the object, or None
    where nobody said where the objects are. `train_names` and `test_names` are the pictures' files, relative
    to the data's folder; `lists` are subsets of the training pictures that were given as lists of files, by
    name. `train_digests` are the same for training pictures that are copies of each other, and `notes` say
    what its owner should know of the pictures. `outlined` are those of `train` whose object is known.
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
    test_names: tuple[str, ...] = field(default=(), repr=False)
    lists: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    train_digests: tuple[str, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    outlined: frozenset[int] = field(default=frozenset(), repr=False)

    def held_out(self, indices: Sequence[int]) -> Task:
        """Return the task with the training pictures `indices` as its test pictures; they stay in `train`."""
        return replace(
            self,
            test=torch.stack([self.train.plain(index) for index in indices]),
            test_labels=tuple(self.train_labels[index] for index in indices),
            test_masks=None,
            test_names=tuple(self.train_names[index] for index in indices) if self.train_names else (),
        )

    def normalise(self, pictures: Tensor) -> Tensor:
        """Return uint8 pictures [b, 3, size, size] as float32 with the model's mean and deviation."""
        return normalise(pictures, self.mean, self.std)
