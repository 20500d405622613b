"""A folder of photographs as a task: all pictures opened once, before any training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from vitreg.errors import InputError
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Statistics, Task
from vitreg.train.data.reading import Read, in_one_line, in_parallel, or_error, read_sample, test_reader
from vitreg.train.data.samples import Folder, Sample, copies_in_words
from vitreg.train.data.transforms import evaluation_transform, training_transform
from vitreg.views import random_numbers

MEMORY_LIMIT = 2 * 2**30
"""Bytes of training pictures kept in memory; beyond it they are read each time (same pixels, slower)."""


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
        self.masks: dict[int, Image.Image] = {}
        self.bytes_kept = 0

    def keep(self, index: int, reduced: Image.Image, mask: Tensor | None = None) -> None:
        """Keep a reduced picture, and the mask of its object, in memory while there is room."""
        num_bytes = (3 if mask is None else 4) * reduced.width * reduced.height
        if self.bytes_kept + num_bytes <= MEMORY_LIMIT:
            self.kept[index] = reduced
            self.bytes_kept += num_bytes
            if mask is not None:
                self.masks[index] = _like(mask, reduced)

    def reduced_picture(self, index: int) -> Image.Image:
        """Return picture `index` as it is kept, opened anew where there was no room."""
        return self.kept.get(index) or self.read(self.samples[index]).picture

    def read(self, sample: Sample) -> Read:
        """Return a picture as it is kept."""
        return read_sample(sample, lambda picture, mask: (self._reduce(picture), mask))

    def picture(self, index: int, *, seed: int) -> Tensor:
        """Return picture `index`, augmented, as uint8 [3, size, size]."""
        picture = self.reduced_picture(index)
        with random_numbers(seed):
            return self.transform(picture)

    def mask(self, index: int, *, seed: int) -> Tensor:
        """Return bool [size, size], true on the object, cropped and flipped as `picture`; nowhere if unknown.

        It follows no other augmentation.
        """
        mask = self.masks.get(index)
        if mask is None:
            read = self.read(self.samples[index])
            if read.mask is None:
                return torch.zeros(self.size, self.size, dtype=torch.bool)
            mask = _like(read.mask, read.picture)
        with random_numbers(seed):
            return self.transform(mask)[0] > 127

    def plain(self, index: int) -> Tensor:
        """Return picture `index` as a test picture is seen, from the reduced one: uint8 [3, size, size]."""
        return evaluation_transform(self.size)(self.reduced_picture(index), None)[0]

    def _reduce(self, picture: Image.Image) -> Image.Image:
        scale = 2 * self.size / min(picture.size)
        if scale >= 1:
            return picture
        width, height = (max(round(side * scale), 2 * self.size) for side in picture.size)
        return picture.resize((width, height), Image.Resampling.BICUBIC)


def _like(mask: Tensor, picture: Image.Image) -> Image.Image:
    """Return a mask of the picture of full size as grey levels of `picture`'s size, 255 on the object."""
    return Image.fromarray(255 * mask.numpy().astype("uint8")).resize(picture.size, Image.Resampling.BICUBIC)


def photo_task(
    folder: Folder,
    *,
    name: str,
    size: int,
    augment: str,
    statistics: Statistics | None = None,
    progress: Progress | None = None,
) -> Task:
    """Open every picture of `folder` and return the task; `progress` shows and says how it goes.

    Without `statistics` the input is normalised as ImageNet's.

    Raises:
        InputError: Pictures or trimaps cannot be read (all of them are named), a trimap has another size than
            its picture, or the same picture is in training and test.
    """
    mean, std = statistics or Statistics()
    progress = progress or Progress(Console(quiet=True))
    total = len(folder.train) + len(folder.test)
    digest = hashlib.sha256(repr((mean, std, folder.classes)).encode())
    refused: list[str] = []
    digests: dict[str, list[str]] = {"train": [], "test": []}

    def readable(
        split: str, samples: Sequence[Sample], read: Callable[[Sample], Read], before: int
    ) -> Iterator[tuple[int, Read]]:
        for index, found in enumerate(in_parallel(or_error(read), samples)):
            if isinstance(found, InputError):
                refused.append(str(found))
            else:
                digests[split].append(found.digest)
                _add(digest, split, samples[index], found)
                yield index, found
            update(before + index + 1, total)

    train = Photos(folder.train, size=size, augment=augment, mean=mean)
    with progress.stage(f"reading the pictures of {name}") as update:
        for index, found in readable("train", folder.train, train.read, 0):
            train.keep(index, found.picture, found.mask)
        # Test pictures are the same in each evaluation: they are kept as the network sees them (150 kB each
        # at 224 px).
        test = [found for _, found in readable("test", folder.test, test_reader(size), len(folder.train))]
    if refused:
        raise InputError(in_one_line(refused))
    notes = copies_in_words(folder, *digests.values())
    for note in notes:
        progress.say(f"{name}: {note}")
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
        outlined=frozenset(index for index, one in enumerate(folder.train) if one.box or one.trimap),
    )


def _add(digest: hashlib._Hash, split: str, sample: Sample, read: Read) -> None:
    """Add to the fingerprint what decides a figure: content, order, class, object; not the folder's place."""
    digest.update(f"{split} {sample.label} {read.digest} {sample.box}\n".encode())
    for note in read.notes:
        digest.update(f"{note}\n".encode())  # runs from before pictures were turned are other runs
    if sample.trimap is not None and read.mask is not None:
        digest.update(read.mask.numpy().tobytes())
