"""A source that reads each view of a picture once and remembers what it read."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.errors import ArgumentError, MismatchError, StateError, UnsupportedModelError
from vitreg.functional.precision import Autocast
from vitreg.hooks import eagerly
from vitreg.reader import ALONE, Reader, matters
from vitreg.reader.random_state import RandomState
from vitreg.sources.fingerprints import check_same_pictures, check_same_source, digest_of
from vitreg.sources.forward import image_size
from vitreg.sources.frozen import FrozenSource
from vitreg.sources.row_files import check_folder, facts_in, unusable
from vitreg.sources.rows import PRINT_LENGTH, RowCache, prints_of
from vitreg.types import Arguments, ViewNumbers


class CachedSource(FrozenSource):
    """A frozen source that runs once on each view of a picture, and remembers what a penalty reads there.

    In few-shot training a picture is seen thousands of times. Let each have a finite number of augmented
    views (`vitreg.Views`), tell the penalty which of them a batch holds, and the source runs only for those
    that it has not seen:

        views = vitreg.Views(dataset, num_views=16)
        source = vitreg.CachedSource(pretrained, size=views.size)
        attachment = vitreg.attach(model, source)
        for images, labels, numbers in DataLoader(views, batch_size=64, shuffle=True):
            loss = F.cross_entropy(model(images), labels) + attachment.penalty(views=numbers)

    The values are those of the frozen source: kept as they were read, up to the rounding of `dtype` and of
    matrix products in a batch of another size. Attachments may share it; what differs in blocks, extractor,
    image size, autocast or device is remembered apart. A few pixels of each view are remembered too, and
    compared each time: a view that is not the picture it was is an error (on a GPU, where looking would hold
    up the training, a device-side assertion).

    Args:
        source: the pre-trained model, or the source of an attachment, which is shared.
        size: how many views there are; they have the numbers 0 … size - 1.
        path: a folder of memory-mapped files for what is remembered, shared with other processes and later
            ones; by default it is kept in memory, on the images' device.
        dtype: how it is kept; float16 halves the space, and rounds logits to 3 digits.
        limit: how much may be kept in memory, in bytes.

    Raises:
        ArgumentError: a size below 1, or a type that is no floating-point type of NumPy.
    """

    def __init__(
        self,
        source: nn.Module | FrozenSource,
        size: int,
        *,
        path: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
        limit: int = 4 * 2**30,
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ArgumentError(f"size must be the number of views, at least 1, got {size!r}.")
        if dtype not in (torch.float16, torch.float32, torch.float64):
            raise ArgumentError(f"dtype must be torch.float16, float32 or float64, got {dtype!r}.")
        if path is not None and not isinstance(path, str | Path):
            raise ArgumentError(f"path must be a folder, got {path!r}.")
        self.path = None if path is None else Path(path)
        if isinstance(source, FrozenSource):
            self.tower, self.autocast = source.tower, source.autocast
            self._weights = source._weights
        elif isinstance(source, nn.Module):
            super().__init__(source)
        else:
            raise ArgumentError(
                f"source must be a module or a FrozenSource, got {type(source).__name__}. A source='base' is "
                "the model itself, of which nothing can be remembered."
            )
        if self.path is not None:
            check_folder(self.path)
        self.size = size
        self.dtype = dtype
        self.limit = limit
        self._remembered: dict[tuple[Any, ...], RowCache] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_remembered": {}}  # a copy reads anew, or from the folder

    @eagerly
    def read(
        self,
        reader: Reader,
        images: Tensor,
        autocast: Autocast | None,
        *,
        more: Arguments = ALONE,
        random: RandomState | None = None,
        resize: bool = False,
        views: ViewNumbers | None = None,
    ) -> None:
        """Give `reader` what is remembered of each view; run the source on new views, and remember them.

        Raises:
            ArgumentError: numbers out of range, or not one for each image; or it does not fit.
            StateError: no numbers, or a view is not the picture that it was.
            UnsupportedModelError: the model changes the images before its stem, what is read is not one
                value for each image, or it depends on more than the image.
            MismatchError: what is read is more precise than what is kept.
        """
        if any(matters(argument) for argument in (*more[0], *more[1].values())):
            raise UnsupportedModelError(
                "Expected a model that is called with images alone, found further arguments, which a "
                "CachedSource does not tell apart. Call it without them, or use the source as it is."
            )
        numbers = self._check_numbers(views, images)
        weights = next(self.tower.module.parameters()).dtype
        precision = self.precision(autocast)
        mixed = precision[1] if precision is not None and precision[0] else None
        key = (reader.slots, tuple(images.shape[1:]), resize, mixed, weights, images.device.type)
        cache = self._remembered.get(key) or self._open(key)
        missing = list(range(len(numbers))) if cache is None else cache.missing(numbers)
        prints = prints_of(images)
        if missing:
            places = torch.tensor(missing).to(images.device)
            part = images if len(missing) == len(images) else images[places]
            super().read(reader, part, autocast, resize=resize)
            if self.is_random:
                raise UnsupportedModelError(
                    f"Expected a source that reads the same of an image each time, found that "
                    f"{type(self.tower.module).__name__} draws random numbers in eval mode, such as masked "
                    "positions. Switch them off, or use the source as it is."
                )
            values = [reader.values[slot].detach() for slot in reader.slots]
            cache = cache or self._make(key, values, part)
            cache.put([numbers[place] for place in missing], prints[places], values)
        assert cache is not None
        known, values = cache.get(numbers, images.device)
        check_same_pictures(known, prints, cache.folder)
        place = next((place for place, row in enumerate(numbers) if row in cache.foreign), None)
        if place is not None:
            super().read(reader, images[place : place + 1], autocast, resize=resize)
            own = [reader.values[slot][0] for slot in reader.slots]
            check_same_source(own, [value[place] for value in values], cache.folder)
            cache.trust()
        self._remembered[key] = cache
        size = image_size(self.tower) if resize else None
        # Of the images only the size matters from here on.
        reader.recall(values, images if size is None else images[..., :1, :1].expand(-1, -1, *size))

    def _check_numbers(self, views: ViewNumbers | None, images: Tensor) -> list[int]:
        """Return the numbers of the views, one an image."""
        if views is None:
            raise StateError(
                "A CachedSource has to know which views a batch holds, found no numbers: "
                "penalty(views=numbers), one a picture, as vitreg.Views delivers them."
            )
        if not isinstance(views, Tensor | Sequence):
            raise ArgumentError(f"Expected whole numbers as views, found {type(views).__name__}.")
        if isinstance(views, Tensor) and views.dim() != 1:
            raise ArgumentError(f"Expected whole numbers as views, [b], found {list(views.shape)}.")
        numbers: list[int] = views.tolist() if isinstance(views, Tensor) else list(views)
        if len(numbers) != len(images) or not all(type(number) is int for number in numbers):
            raise ArgumentError(f"Expected {len(images)} whole numbers as views, found {views!r}.")
        outside = [number for number in numbers if not 0 <= number < self.size]
        if outside:
            raise ArgumentError(
                f"Expected views from 0 to {self.size - 1} (size={self.size}), found {outside[0]}."
            )
        return numbers

    def _open(self, key: tuple[Any, ...]) -> RowCache | None:
        """Return what other runs remember of `key` in a folder, or None if there is nothing."""
        folder = self._folder(key)
        if folder is None or not folder.exists():
            return None
        found = facts_in(folder)
        shapes = found.pop("shapes", None)
        if not isinstance(shapes, list) or found != json.loads(json.dumps(self._facts(key))):
            raise unusable(folder, ValueError("its facts are not those that its name stands for"))
        return RowCache(self.size, shapes, self.dtype, torch.device("cpu"), folder=folder)

    def _make(self, key: tuple[Any, ...], values: Sequence[Tensor], images: Tensor) -> RowCache:
        """Return a new cache for values such as these of `images`."""
        for (name, _, index), value in zip(key[0], values, strict=True):
            if value.dim() < 1 or len(value) != len(images):
                raise UnsupportedModelError(
                    f"Expected {name} of block {index} to have one value an image, [{len(images)}, …], found "
                    f"{list(value.shape)}, which cannot be remembered. Use the source as it is."
                )
            if value.dtype == torch.float64 and self.dtype == torch.float32:
                raise MismatchError(
                    f"Expected {name} in float32, in which it is kept, found float64. Use "
                    "CachedSource(dtype=torch.float64)."
                )
        shapes = [tuple(value.shape[1:]) for value in values]
        folder = self._folder(key)
        needed = self.size * (sum(map(prod, shapes)) * self.dtype.itemsize + 4 * PRINT_LENGTH)
        held = sum(cache.nbytes for cache in self._remembered.values())
        if folder is None and held + needed > self.limit:
            raise ArgumentError(
                f"{self.size} views need {(held + needed) / 2**30:.2g} GiB, more than the limit of "
                f"{self.limit / 2**30:.2g} GiB. Use path=FOLDER, dtype=torch.float16, fewer views, or a "
                "larger limit."
            )
        if folder is None:
            return RowCache(self.size, shapes, self.dtype, images.device)
        free = shutil.disk_usage(folder.parent).free
        if needed > free:
            raise ArgumentError(
                f"{self.size} views need {needed / 2**30:.2g} GiB, found {free / 2**30:.2g} GiB free in "
                f"{folder.parent}. Use dtype=torch.float16, fewer views, or another path."
            )
        return RowCache(self.size, shapes, self.dtype, images.device, folder=folder, facts=self._facts(key))

    def _folder(self, key: tuple[Any, ...]) -> Path | None:
        """Return the folder for `key`: another one for whatever may change what is read."""
        if self.path is None:
            return None
        facts = json.dumps(self._facts(key), sort_keys=True).encode()
        return self.path / f"{type(self.tower.module).__name__}-{hashlib.sha256(facts).hexdigest()[:16]}"

    def _facts(self, key: tuple[Any, ...]) -> dict[str, Any]:
        names = ("values", "image", "resize", "autocast", "weights", "device")
        facts = dict(zip(names, (key[0], *map(str, key[1:])), strict=True))
        return {**facts, "source": self._digest, "size": self.size, "dtype": str(self.dtype), "format": 1}

    @cached_property
    def _digest(self) -> str:
        return digest_of(self.tower)


def refuse_cached(source: object) -> None:
    """Raise `ArgumentError` if `source` remembers, in a loop that does not say which views a batch holds."""
    if isinstance(source, CachedSource):
        raise ArgumentError(
            "A guide cannot tell a CachedSource which views a batch holds. Attach with the source as it is, "
            "or take attachment.penalty(views=numbers) in a training loop of your own."
        )
