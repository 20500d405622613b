"""A folder of photographs as a task: all pictures opened once, before any training."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from vitreg.errors import InputError
from vitreg.train.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Task
from vitreg.train.data.samples import Folder, Sample
from vitreg.train.data.transforms import box_mask, evaluation_transform, training_transform, trimap_mask
from vitreg.views import random_numbers

MEMORY_LIMIT = 2 * 2**30
"""Bytes of training pictures kept in memory; beyond it they are read each time (same pixels, slower)."""

T = TypeVar("T")


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a picture is turned upright for each EXIF orientation (tag 0x0112) but 1, which is upright."""


class _Opened(NamedTuple):
    picture: Image.Image
    mask: Tensor | None
    digest: str
    turned: bool


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

    def keep(self, index: int, picture: Image.Image) -> None:
        """Keep a decoded picture in memory while there is room."""
        reduced = self._reduced(picture)
        if self.bytes_kept + 3 * reduced.width * reduced.height <= MEMORY_LIMIT:
            self.kept[index] = reduced
            self.bytes_kept += 3 * reduced.width * reduced.height

    def reduced(self, index: int) -> Image.Image:
        """Return picture `index` as it is kept, opened anew where there was no room."""
        return self.kept.get(index) or self._reduced(_open(self.samples[index]).picture)

    def picture(self, index: int, *, seed: int) -> Tensor:
        """Return picture `index`, augmented, as uint8 [3, size, size]."""
        picture = self.reduced(index)
        with random_numbers(seed):
            return self.transform(picture)

    def plain(self, index: int) -> Tensor:
        """Return picture `index` as a test picture is seen, from the reduced one: uint8 [3, size, size]."""
        return evaluation_transform(self.size)(self.reduced(index), None)[0]

    def _reduced(self, picture: Image.Image) -> Image.Image:
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
        InputError: A picture or trimap cannot be read (named), or a trimap has another size than its
            picture.
    """
    total = len(folder.train) + len(folder.test)
    digest = hashlib.sha256(repr((mean, std, folder.classes)).encode())
    train = Photos(folder.train, size=size, augment=augment, mean=mean)
    for index, opened in enumerate(_parallel(_open, folder.train)):
        train.keep(index, opened.picture)
        _add(digest, "train", folder.train[index], opened)
        on_picture(index + 1, total)

    # Test pictures are the same in each evaluation: they are kept as the network sees them (150 kB each at
    # 224 px).
    evaluate = evaluation_transform(size)
    pictures: list[Tensor] = []
    masks: list[Tensor | None] = []
    for index, opened in enumerate(_parallel(_open, folder.test)):
        picture, mask = evaluate(opened.picture, opened.mask)
        pictures.append(picture)
        masks.append(mask)
        _add(digest, "test", folder.test[index], opened)
        on_picture(len(folder.train) + index + 1, total)
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
        test=torch.stack(pictures),
        test_labels=tuple(sample.label for sample in folder.test),
        test_masks=torch.stack(known) if len(known) == len(pictures) else None,
        mean=mean,
        std=std,
    )


def _open(sample: Sample) -> _Opened:
    """Return the picture upright, as its EXIF orientation says, and its object.

    Boxes and trimaps are in pixels of the stored picture, as index.csv defines them, and turned with it.
    """
    content = _read(sample.path)
    stored = _decode(sample.path, content)
    mask = None
    if sample.trimap is not None:
        trimap = _decode(sample.trimap, _read(sample.trimap))
        if trimap.size != stored.size:
            raise InputError(
                f"{sample.trimap} is {trimap.size} pixels, its picture {sample.path} {stored.size} as stored"
            )
        mask = trimap_mask(trimap)
    elif sample.box is not None:
        mask = box_mask(sample.box, height=stored.height, width=stored.width)
    picture = stored.convert("RGB")
    turn = _TURNS.get(stored.getexif().get(ExifTags.Base.Orientation, 1))
    if turn is not None:
        picture = picture.transpose(turn)
        if mask is not None:
            mask = torch.from_numpy(np.array(Image.fromarray(mask.numpy()).transpose(turn)))
    return _Opened(picture, mask, hashlib.sha256(content).hexdigest(), turn is not None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the picture {path}: {error.strerror}") from error


def _decode(path: Path, content: bytes) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
        picture.getexif()
    except Exception as error:  # PIL's readers raise whatever the broken bytes lead them into
        raise InputError(
            f"corrupt picture {path}: {type(error).__name__}: {error}".splitlines()[0]
        ) from error
    return picture


def _add(digest: hashlib._Hash, split: str, sample: Sample, opened: _Opened) -> None:
    """Add to the fingerprint what decides a figure: content, order, class, object; not the folder's place."""
    digest.update(f"{split} {sample.label} {opened.digest} {sample.box}\n".encode())
    if opened.turned:
        digest.update(b"turned\n")  # runs from before pictures were turned are other runs
    if sample.trimap is not None and opened.mask is not None:
        digest.update(opened.mask.numpy().tobytes())


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
