"""A folder of photographs as a task: all pictures opened once, before any training."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitreg.errors import InputError
from vitreg.pictures.reading import opened_picture, read_numbers, upright
from vitreg.train.basics.progress import Progress
from vitreg.train.data.copies import copies_in_words
from vitreg.train.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Statistics, Task
from vitreg.train.data.samples import Folder, Sample
from vitreg.train.data.transforms import box_mask, evaluation_transform, training_transform, trimap_mask
from vitreg.views import random_numbers

MEMORY_LIMIT = 2 * 2**30
"""Bytes of training pictures kept in memory; beyond it they are read each time (same pixels, slower)."""

T = TypeVar("T")


class _Read(NamedTuple):
    """A picture as it is kept, the network's input or a reduced one, its object, and what is told of it."""

    picture: Any
    mask: Tensor | None
    digest: str
    notes: tuple[str, ...]


class Photos:
    """Training pictures of a folder, reduced once and augmented when drawn.

    Decoding a photograph of full size costs more than a training step of a small network, so each is decoded
    once and kept with its short side at no more than twice the network's input: a random crop of a quarter of
    the picture or more is then still sampled from at least as many pixels as the network sees.
    """

    def __init__(
        self, samples: tuple[Sample, ...], *, size: int, augment: str, mean: tuple[float, ...]
    ) -> None:
        self.samples = samples
        self.size = size
        self.transform = training_transform(size, augment=augment, mean=mean)
        self.kept: dict[int, Image.Image] = {}
        self.bytes_kept = 0

    def keep(self, index: int, reduced: Image.Image) -> None:
        """Keep a reduced picture in memory while there is room."""
        if self.bytes_kept + 3 * reduced.width * reduced.height <= MEMORY_LIMIT:
            self.kept[index] = reduced
            self.bytes_kept += 3 * reduced.width * reduced.height

    def reduced_picture(self, index: int) -> Image.Image:
        """Return picture `index` as it is kept, opened anew where there was no room."""
        return self.kept.get(index) or self.read(self.samples[index]).picture

    def read(self, sample: Sample) -> _Read:
        """Return a picture as it is kept."""
        return _read(sample, lambda picture, mask: (self._reduce(picture), mask))

    def picture(self, index: int, *, seed: int) -> Tensor:
        """Return picture `index`, augmented, as uint8 [3, size, size]."""
        picture = self.reduced_picture(index)
        with random_numbers(seed):
            return self.transform(picture)

    def plain(self, index: int) -> Tensor:
        """Return picture `index` as a test picture is seen, from the reduced one: uint8 [3, size, size]."""
        return evaluation_transform(self.size)(self.reduced_picture(index), None)[0]

    def _reduce(self, picture: Image.Image) -> Image.Image:
        scale = 2 * self.size / min(picture.size)
        if scale >= 1:
            return picture
        width, height = (max(round(side * scale), 2 * self.size) for side in picture.size)
        return picture.resize((width, height), Image.Resampling.BICUBIC)


def photo_task(
    folder: Folder,
    *,
    name: str,
    size: int,
    augment: str,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> Task:
    """Open every picture of `folder` and return the task.

    Raises:
        InputError: Pictures or trimaps cannot be read (all of them are named), a trimap has another size than
            its picture, or the same picture is in training and test.
    """
    total = len(folder.train) + len(folder.test)
    digest = hashlib.sha256(repr((mean, std, folder.classes)).encode())
    refused: list[str] = []
    digests: dict[str, list[str]] = {"train": [], "test": []}

    def readable(
        split: str, samples: Sequence[Sample], read: Callable[[Sample], _Read], before: int
    ) -> Iterator[tuple[int, _Read]]:
        for index, found in enumerate(_parallel(_or_error(read), samples)):
            if isinstance(found, InputError):
                refused.append(str(found))
            else:
                digests[split].append(found.digest)
                _add(digest, split, samples[index], found)
                yield index, found
            on_picture(before + index + 1, total)

    train = Photos(folder.train, size=size, augment=augment, mean=mean)
    for index, found in readable("train", folder.train, train.read, 0):
        train.keep(index, found.picture)
    # Test pictures are the same in each evaluation: they are kept as the network sees them (150 kB each at
    # 224 px).
    test = [found for _, found in readable("test", folder.test, test_reader(size), len(folder.train))]
    if refused:
        raise InputError(in_one_line(refused))
    notes = copies_in_words(folder, *digests.values())
    masks = [found.mask for found in test]
    known = [mask for mask in masks if mask is not None]
    if 0 < len(known) < len(masks):
        missing = folder.test[masks.index(None)].path
        raise InputError(
            f"the object is known in {len(known)} of {len(masks)} test pictures of {name} "
            f"(not in {missing}); give all of them a box or trimap, or none"
        )
    return Task(
        name=name,
        classes=folder.classes,
        fingerprint=digest.hexdigest(),
        size=size,
        train=train,
        train_labels=tuple(sample.label for sample in folder.train),
        test=torch.stack([found.picture for found in test]),
        test_labels=tuple(sample.label for sample in folder.test),
        test_masks=torch.stack(known) if len(known) == len(test) else None,
        mean=mean,
        std=std,
        train_names=folder.names_of(folder.train),
        test_names=folder.names_of(folder.test),
        train_digests=tuple(digests["train"]),
        notes=notes,
    )


def folder_task(
    folder: Folder, name: str, *, size: int, augment: str, statistics: Statistics, progress: Progress
) -> Task:
    """Return the task of a folder as `photo_task` does, and show and say how it goes."""
    mean, std = statistics
    with progress.stage(f"reading the pictures of {name}") as update:
        task = photo_task(
            folder, name=name, size=size, augment=augment, mean=mean, std=std, on_picture=update
        )
    for note in task.notes:
        progress.say(f"{name}: {note}")
    return task


def read_pictures(paths: Sequence[Path], size: int) -> Iterator[Tensor | InputError]:
    """Yield each picture as a test picture is seen, uint8 [3, size, size], or why it cannot be read."""
    for read in _parallel(_or_error(test_reader(size)), [Sample(path, 0) for path in paths]):
        yield read if isinstance(read, InputError) else read.picture


def read_objects(samples: Sequence[Sample], side: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each picture's middle square, uint8 [3, side, side], and its object there, bool [side, side].

    The undecided pixels of an outline count to the object.

    Raises:
        InputError: A picture or an outline cannot be read.
    """
    use = evaluation_transform(side, ratio=1.0)
    for read in _parallel(lambda sample: _read(sample, use, object_values=(1, 3)), samples):
        assert read.mask is not None
        yield read.picture, read.mask


def test_reader(size: int) -> Callable[[Sample], _Read]:
    """Return the function that reads a picture as the network sees it in the test."""
    evaluate = evaluation_transform(size)
    return lambda sample: _read(sample, evaluate)


def in_one_line(refused: Sequence[str], *, at_most: int = 50) -> str:
    """Return why pictures cannot be read, all of them at once."""
    if len(refused) == 1:
        return refused[0]
    rest = f"; and {len(refused) - at_most} more" if len(refused) > at_most else ""
    return f"{len(refused)} pictures cannot be used: {'; '.join(refused[:at_most])}{rest}"


def _read(
    sample: Sample,
    use: Callable[[Image.Image, Tensor | None], tuple[Any, Tensor | None]],
    object_values: Sequence[int] = (1,),
) -> _Read:
    """Return what `use` makes of a picture, upright as its EXIF orientation says, and of its object.

    Boxes and trimaps are in pixels of the stored picture, as index.csv defines them, and turned with it.
    """
    trimap = None if sample.trimap is None else read_numbers(sample.trimap)
    with opened_picture(sample.path) as opened:
        width, height = opened.stored
        mask = None
        if trimap is not None:
            if trimap.size != opened.stored:
                raise InputError(
                    f"{sample.trimap} is {trimap.size} pixels, its picture {sample.path} {opened.stored} as "
                    "stored"
                )
            mask = trimap_mask(trimap, object_values)
        elif sample.box is not None:
            mask = box_mask(sample.box, height=height, width=width)
        if mask is not None:
            mask = torch.from_numpy(np.array(upright(Image.fromarray(mask.numpy()), opened.orientation)))
        notes = (*(["turned"] if opened.orientation in range(2, 9) else []), *opened.notes)
        return _Read(*use(opened.image, mask), opened.digest, notes)


def _add(digest: hashlib._Hash, split: str, sample: Sample, read: _Read) -> None:
    """Add to the fingerprint what decides a figure: content, order, class, object; not the folder's place."""
    digest.update(f"{split} {sample.label} {read.digest} {sample.box}\n".encode())
    for note in read.notes:
        digest.update(f"{note}\n".encode())  # runs from before pictures were turned are other runs
    if sample.trimap is not None and read.mask is not None:
        digest.update(read.mask.numpy().tobytes())


def _or_error(function: Callable[[Sample], T]) -> Callable[[Sample], T | InputError]:
    def result(sample: Sample) -> T | InputError:
        try:
            return function(sample)
        except InputError as error:
            return error

    return result


def _parallel(function: Callable[[Sample], T], samples: Iterable[Sample]) -> Iterator[T]:
    """Map in threads (PIL decodes without the interpreter's lock), in order, a bounded number ahead."""
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        waiting = []
        for sample in samples:
            waiting.append(pool.submit(function, sample))
            if len(waiting) > 4 * workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
