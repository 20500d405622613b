"""Augmented views of pictures, each computed once and kept as uint8, so that later steps only draw them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vitreg.train.data.batches import Draw, Draws, Slices
from vitreg.train.data.dataset import Task, TrainingPictures

MEMORY_LIMIT = 4 * 2**30
"""Bytes of views kept in the main memory; beyond it they are computed each time (same pixels, slower)."""


class KeptViews:
    """The views of a task's training pictures, by number: on `device` while it has room, then in memory.

    Args:
        train: the pictures and their augmentation.
        device: where the pictures are trained on.
        limits: bytes to keep on the device, and in memory; without them half of what is free on a GPU, and
            `MEMORY_LIMIT`.
    """

    def __init__(
        self, train: TrainingPictures, device: torch.device, *, limits: tuple[int, int] | None = None
    ) -> None:
        self.train = train
        self.device = device
        if limits is None:
            free = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 0
            limits = free, MEMORY_LIMIT
        self.room = list(limits)
        self.pictures: dict[int, Tensor] = {}

    def keep(self, pictures: Mapping[int, Tensor]) -> None:
        """Keep the views, which lie in the main memory, where there is room."""
        for number, picture in pictures.items():
            for place, target in enumerate((self.device, torch.device("cpu"))):
                if picture.nbytes <= self.room[place]:
                    self.room[place] -= picture.nbytes
                    # A copy: a row of a batch would keep the whole batch.
                    self.pictures[number] = picture.to(target, copy=True)
                    break

    def batches(
        self, slices: Slices, labels: Sequence[int], *, workers: int, seed: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield pictures uint8 [b, 3, size, size] on the device, labels [b] and views [b] of each batch.

        `workers` processes compute the views that are not kept yet.
        """
        fresh = DataLoader(
            Draws(self.train, labels),
            batch_sampler=_Missing(self, slices),
            num_workers=workers if len(slices) else 0,
            collate_fn=_collate,
            # So that no number is taken from the model's own generator.
            generator=torch.Generator().manual_seed(seed),
        )
        for draws, (numbers, pictures) in zip(slices, fresh, strict=True):
            computed = dict(zip(numbers, pictures, strict=True))
            self.keep({view: picture for view, picture in computed.items() if view not in self.pictures})
            found = [self.pictures[view] if view in self.pictures else computed[view] for *_, view in draws]
            is_cuda = self.device.type == "cuda"
            moved = torch.stack([picture.to(self.device, non_blocking=is_cuda) for picture in found])
            own = torch.tensor([labels[draw.picture] for draw in draws])
            yield moved, own, torch.tensor([draw.view for draw in draws])


def _collate(items: Sequence[tuple[Tensor, int, int]]) -> tuple[list[int], Tensor]:
    """Return views and pictures, one tensor for all: worker processes hand over a file for each tensor."""
    pictures = torch.stack([picture for picture, *_ in items]) if items else torch.empty(0)
    return [view for *_, view in items], pictures


class _Missing:
    """Of each batch the draws whose views are not kept when it is asked for, each once."""

    def __init__(self, kept: KeptViews, slices: Slices) -> None:
        self.kept, self.slices = kept, slices

    def __len__(self) -> int:
        return len(self.slices)

    def __iter__(self) -> Iterator[list[Draw]]:
        for draws in self.slices:
            new = {draw.view: draw for draw in draws if draw.view not in self.kept.pictures}
            yield list(new.values())


_KEPT: WeakKeyDictionary[TrainingPictures, tuple[int, KeptViews]] = WeakKeyDictionary()


def kept_views(task: Task, views: int, device: torch.device) -> KeptViews:
    """Return the kept `views` of each of the task's pictures: the same for all runs of this process."""
    number, kept = _KEPT.get(task.train, (0, None))
    if kept is None or number != views or kept.device != device:
        kept = KeptViews(task.train, device)
        _KEPT[task.train] = views, kept
    return kept
