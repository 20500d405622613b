"""The same picture twice: in training and test it makes figures too good, in two classes it says nothing."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress

from vitreg.errors import InputError
from vitreg.train.data.samples import Folder, Sample

_NAMED = 5


def copies_in_words(folder: Folder, train: Sequence[str], test: Sequence[str]) -> tuple[str, ...]:
    """Return what has to be said of pictures that are there more than once, going by their digests.

    Raises:
        InputError: A picture is in training and test, and the splits are not those of a data set's owner.
    """
    places: dict[str, list[tuple[str, Sample]]] = defaultdict(list)
    for split, samples, digests in (("training", folder.train, train), ("test", folder.test, test)):
        for sample, digest in zip(samples, digests, strict=True):
            places[digest].append((split, sample))
    across, classes, same = [], [], []
    for found in places.values():
        if len(found) < 2:
            continue
        names = " and ".join(folder.name_of(sample) for _, sample in found[:3])
        if len({split for split, _ in found}) > 1:
            across.append(names)
        elif len({sample.label for _, sample in found}) > 1:
            classes.append(names)
        else:
            same.append(names)
    notes = []
    if across:
        said = f"{_times(across)} in training and test, which makes the figures too good: {_first(across)}"
        if not folder.is_official:
            raise InputError(
                f"{folder.root}: {said}; remove one of each, or give it the split none in an index.csv"
            )
        notes.append(said)
    if classes:
        notes.append(f"{_times(classes)} in two classes, of which one is wrong: {_first(classes)}")
    if same:
        notes.append(f"{_times(same)} there more than once: {_first(same)}")
    return tuple(notes)


def file_digests(samples: Sequence[Sample]) -> list[str]:
    """Return for each picture a text that is the same for files of the same content, and for no others."""
    sizes: dict[int, list[int]] = defaultdict(list)
    digests = [str(sample.path) for sample in samples]
    for index, sample in enumerate(samples):
        with suppress(OSError):  # whoever opens it says why
            sizes[os.stat(sample.path).st_size].append(index)
    for alike in sizes.values():
        for index in alike if len(alike) > 1 else ():
            with suppress(OSError):
                digests[index] = hashlib.sha256(samples[index].path.read_bytes()).hexdigest()
    return digests


def copies_of(digests: Sequence[str], indices: Iterable[int]) -> set[int]:
    """Return those of `indices` whose picture an earlier one of them is already."""
    seen: set[str] = set()
    copies = set()
    for index in indices if digests else ():
        if digests[index] in seen:
            copies.add(index)
        seen.add(digests[index])
    return copies


def _times(found: Sequence[str]) -> str:
    return f"{len(found)} pictures are" if len(found) > 1 else "1 picture is"


def _first(found: Sequence[str]) -> str:
    rest = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return "; ".join(found[:_NAMED]) + rest
