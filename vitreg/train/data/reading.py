"""Pictures of samples as they are read: what the network sees of them, and of their objects; in threads."""

from __future__ import annotations

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
from vitreg.train.data.samples import Sample
from vitreg.train.data.transforms import box_mask, evaluation_transform, trimap_mask

S = TypeVar("S")
T = TypeVar("T")


class Read(NamedTuple):
    """A picture as it is kept, the network's input or a reduced one, its object, and what is told of it."""

    picture: Any
    mask: Tensor | None
    digest: str
    notes: tuple[str, ...]


def read_pictures(paths: Sequence[Path], size: int) -> Iterator[Tensor | InputError]:
    """Yield each picture as a test picture is seen, uint8 [3, size, size], or why it cannot be read."""
    for read in in_parallel(or_error(test_reader(size)), [Sample(path, 0) for path in paths]):
        yield read if isinstance(read, InputError) else read.picture


def read_objects(samples: Sequence[Sample], side: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each picture's middle square, uint8 [3, side, side], and its object there, bool [side, side].

    The undecided pixels of an outline count to the object.

    Raises:
        InputError: A picture or an outline cannot be read.
    """
    use = evaluation_transform(side, ratio=1.0)
    for read in in_parallel(lambda sample: read_sample(sample, use, object_values=(1, 3)), samples):
        assert read.mask is not None
        yield read.picture, read.mask


def test_reader(size: int) -> Callable[[Sample], Read]:
    """Return the function that reads a picture as the network sees it in the test."""
    evaluate = evaluation_transform(size)
    return lambda sample: read_sample(sample, evaluate)


def in_one_line(refused: Sequence[str], *, at_most: int = 50) -> str:
    """Return why pictures cannot be read, all of them at once."""
    if len(refused) == 1:
        return refused[0]
    rest = f"; and {len(refused) - at_most} more" if len(refused) > at_most else ""
    return f"{len(refused)} pictures cannot be used: {'; '.join(refused[:at_most])}{rest}"


def read_sample(
    sample: Sample,
    use: Callable[[Image.Image, Tensor | None], tuple[Any, Tensor | None]],
    object_values: Sequence[int] = (1,),
) -> Read:
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
        return Read(*use(opened.image, mask), opened.digest, notes)


def or_error(function: Callable[[Sample], T]) -> Callable[[Sample], T | InputError]:
    """Return the function that returns an `InputError` instead of raising it."""

    def result(sample: Sample) -> T | InputError:
        try:
            return function(sample)
        except InputError as error:
            return error

    return result


def in_parallel(function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Map in threads (PIL decodes without the interpreter's lock), in order, a bounded number ahead."""
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        waiting = []
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 4 * workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
