"""A finite number of augmented views of each picture, each of which can be drawn again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset

from vitreg.errors import ArgumentError


class Views(Dataset[Any]):
    """A dataset whose random augmentation has `num_views` outcomes a picture, each with a number of its own.

    Each time a picture is drawn, one of its views is chosen at random, and the dataset's own augmentation
    runs with the random numbers of that view: those of Python, NumPy and torch's CPU generator, which are
    left as they were. An item (image, label) becomes (image, label, number), and a mapping gets the key
    "view". The numbers are what `Attachment.penalty(views=…)` takes for a `CachedSource`.

    Args:
        dataset: a dataset by index whose items are augmented as they are drawn.
        num_views: how many views a picture has.
        seed: other seeds have other views.

    Raises:
        ArgumentError: a dataset without a length, fewer than one view, or a negative seed.
    """

    def __init__(self, dataset: Dataset[Any], num_views: int, *, seed: int = 0) -> None:
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise ArgumentError(
                f"Views needs a dataset by index with a length, got {type(dataset).__name__}. A stream has "
                "no picture that comes again by its number."
            )
        if isinstance(num_views, bool) or not isinstance(num_views, int) or num_views < 1:
            raise ArgumentError(f"num_views must be a whole number of at least 1, got {num_views!r}.")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ArgumentError(f"seed must be a whole number of at least 0, got {seed!r}.")
        self.dataset = dataset
        self.num_views = num_views
        self.seed = seed

    @property
    def size(self) -> int:
        """How many views there are of all pictures."""
        return len(self) * self.num_views

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(cast(Sized, self.dataset))

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)  # which also ends a loop over the pictures
        return self.view(index, int(torch.randint(self.num_views, ())))

    def view(self, index: int, place: int) -> Any:
        """Return the item of picture `index` in its view `place` of 0 … num_views - 1.

        Raises:
            ArgumentError: there is no such picture or view.
        """
        index = index + len(self) if index < 0 else index
        if not (0 <= index < len(self) and 0 <= place < self.num_views):
            raise ArgumentError(
                f"Expected one of {len(self)} pictures and {self.num_views} views, found {index} and {place}."
            )
        number = index * self.num_views + place
        with random_numbers(view_seed(self.seed, number)):
            item = self.dataset[index]
        if isinstance(item, Mapping):
            return {**item, "view": number}
        return (*item, number) if isinstance(item, tuple | list) else (item, number)


def view_seed(seed: int, number: int) -> int:
    """Return the seed of the random numbers of view `number`."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


@contextmanager
def random_numbers(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators inside, and leave them as they were afterwards.

    timm's RandAugment draws from the first two, torchvision from the third.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)  # the CPU's alone: a GPU may be training meanwhile
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
