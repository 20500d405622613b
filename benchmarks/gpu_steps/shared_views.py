"""The augmented views of a data set's training pictures in one file that all processes map into memory.

Augmenting a picture takes longer than training on it. A finite number of views is computed once, by processes
that do nothing else, and lies in the memory of the machine; whoever comes first to a missing one computes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitreg.train.data.dataset import TrainingPictures
from vitreg.views import view_seed


class SharedViews:
    """Training pictures whose views are shared; any other augmentation is computed as before.

    Args:
        train: the pictures, and their augmentation.
        path: of the two files, without their endings; those who give the same path share the views.
        num_pictures: how many training pictures there are.
        num_views: of each picture.
        size: pixels a side.
    """

    def __init__(
        self, train: TrainingPictures, path: Path, *, num_pictures: int, num_views: int, size: int
    ) -> None:
        self.train = train
        self.num_views = num_views
        number = num_pictures * num_views
        self._pictures = _mapped(path.with_suffix(".views"), (number, 3, size, size))
        self._is_there = _mapped(path.with_suffix(".there"), (number,))

    def picture(self, index: int, *, seed: int) -> Tensor:
        """Return picture `index`, augmented with the random numbers of `seed`: uint8 [3, size, size]."""
        view = _views(index, self.num_views).get(seed)
        if view is None:
            return self.train.picture(index, seed=seed)
        number = index * self.num_views + view
        if not self._is_there[number]:
            self._pictures[number] = self.train.picture(index, seed=seed).numpy()
            self._is_there[number] = 1  # last: two that compute the same view write the same pixels
        return torch.from_numpy(np.array(self._pictures[number]))

    def plain(self, index: int) -> Tensor:
        """Return picture `index` as a test picture is seen: uint8 [3, size, size]."""
        return self.train.plain(index)

    def mask(self, index: int, *, seed: int) -> Tensor:
        """Return where the object of `picture(index, seed)` is: bool [size, size]."""
        return self.train.mask(index, seed=seed)

    def fill(self, indices: Iterable[int]) -> None:
        """Compute every missing view of these pictures."""
        for index in indices:
            for seed in _views(index, self.num_views):
                self.picture(index, seed=seed)


@cache
def _views(index: int, num_views: int) -> dict[int, int]:
    """Return the number of each view of a picture, by the seed of its random numbers."""
    return {view_seed(0, index * num_views + view): view for view in range(num_views)}


def _mapped(path: Path, shape: tuple[int, ...]) -> np.memmap[tuple[int, ...], np.dtype[np.uint8]]:
    """Return a file of zeros, or what others have made of it; what nobody writes takes no space."""
    with open(path, "ab") as file:
        size = int(np.prod(shape))
        if file.tell() < size:
            file.truncate(size)
    return np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
