"""Training pictures cropped, flipped and RandAugmented on the device, from photographs kept in its memory.

What is done to each is drawn on the CPU, with the random numbers of the picture alone, exactly as it is for
pictures that are augmented there (`noted_picture.py`); it is computed for the whole batch on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor
from torchvision.transforms import Compose, v2

from vitreg.errors import InputError
from vitreg.train.data.batches import Draw
from vitreg.train.data.dataset import Task
from vitreg.train.data.noted_picture import NotedPicture, noting
from vitreg.train.data.photographs import Photos
from vitreg.train.data.pixel_operations import Compute
from vitreg.views import random_numbers

DEVICE_MEMORY_LIMIT = 4 * 2**30
"""Bytes of pictures kept on the device; the others are moved there each time (same pixels, slower)."""


class DevicePhotos:
    """The pictures of a `Photos`, augmented on `device` by the crops, flips and operations of its transform.

    A picture is kept on the device, as uint8 [3, h, w], from its first draw on, while there is room: what a
    subset leaves out costs nothing. With the transform `none` nothing is random, and what is kept is the
    picture as the network sees it.

    Args:
        photos: The pictures and their transform: timm's `rand-...`, `crop` or `none`.
        device: Where to keep and augment them.
        limit: Bytes to keep there at most; without it `DEVICE_MEMORY_LIMIT`, and on CUDA at most half of what
            is free now.

    Raises:
        InputError: The transform has a step or an operation that is not known here.
    """

    def __init__(self, photos: Photos, device: torch.device, *, limit: int | None = None) -> None:
        self.photos = photos
        self.device = device
        if limit is None:
            limit = DEVICE_MEMORY_LIMIT
            if device.type == "cuda":
                limit = min(limit, torch.cuda.mem_get_info(device)[0] // 2)
        self.limit = limit
        self.kept: dict[int, Tensor] = {}
        self.bytes_kept = 0
        # `training_transform` returns timm's Compose, or a function of its own for `none`.
        self._draw = noting(photos.transform) if isinstance(photos.transform, Compose) else None

    def batch(self, draws: Sequence[Draw]) -> Tensor:
        """Return the pictures of `draws`, augmented, as uint8 [b, 3, size, size] on the device.

        Each depends on its own picture and seed alone. Nothing is drawn on the device; nothing waits for it.
        """
        sources = [self._source(draw.picture) for draw in draws]
        if self._draw is None:
            return torch.stack(sources)
        noted = []
        for source, draw in zip(sources, draws, strict=True):
            height, width = source.shape[1:]
            with random_numbers(draw.seed):
                noted.append(self._draw(NotedPicture(width, height)))
        cut = [note.cut(source) for note, source in zip(noted, sources, strict=True)]
        return computed(torch.stack(cut), [note.steps for note in noted])

    def _source(self, index: int) -> Tensor:
        if index in self.kept:
            return self.kept[index]
        if self._draw is None:
            picture = self.photos.plain(index)
        else:
            picture = v2.functional.pil_to_tensor(self.photos.reduced(index))
        moved = _moved(picture, self.device)
        if self.bytes_kept + moved.nbytes <= self.limit:
            self.kept[index] = moved
            self.bytes_kept += moved.nbytes
        return moved


def computed(pictures: Tensor, steps: Sequence[Sequence[tuple[Compute, tuple[float, ...]]]]) -> Tensor:
    """Return uint8 `pictures` [b, 3, s, s] after their steps: all first ones, then all second ones, ...

    Pictures with the same operation at the same place are computed together.
    """
    for place in range(max(map(len, steps))):
        groups: dict[Compute, list[int]] = {}
        for index, own in enumerate(steps):
            if place < len(own):
                groups.setdefault(own[place][0], []).append(index)
        for compute, indices in groups.items():
            where = _moved(torch.tensor(indices), pictures.device)
            rows = [steps[index][place][1] for index in indices]
            numbers = _moved(torch.tensor(rows, dtype=torch.float32), pictures.device)
            pictures.index_copy_(0, where, compute(pictures.index_select(0, where), numbers))
    return pictures


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on `device`, without waiting for a GPU."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def device_photos(photos: Photos, device: torch.device) -> DevicePhotos:
    """Return the pictures on `device`, the same for all runs, so that each is moved there once."""
    made = photos.on_device
    if made is None or made.device != device:
        made = photos.on_device = DevicePhotos(photos, device)
    return cast(DevicePhotos, made)


def check_on_device(task: Task) -> None:
    """Raise `InputError` unless the task's pictures can be augmented on a device."""
    if not isinstance(task.train, Photos):
        raise InputError(f"--augment-on device is for photographs; those of {task.name} are drawn")
    DevicePhotos(task.train, torch.device("cpu"))


def drawn_on_device(
    task: Task, batches: Iterable[Sequence[Draw]], device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield pictures uint8 [b, 3, size, size] and labels [b] on the device, and views [b], of each batch."""
    assert isinstance(task.train, Photos)  # as `check_on_device` has found
    photos = device_photos(task.train, device)
    for draws in batches:
        labels = torch.tensor([task.train_labels[draw.picture] for draw in draws])
        views = torch.tensor([draw.view for draw in draws])
        yield photos.batch(draws), _moved(labels, device), views
