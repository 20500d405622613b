"""Pictures of a data set by class and split, and which of them are the same; no picture is decoded here.

The same picture in training and test makes figures too good, in two classes it says nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vitreg.errors import InputError
from vitreg.wording import listed

Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels of the stored picture."""

UNBALANCED = 10
"""How many times as many pictures the largest class has as the smallest, for it to be said."""


@dataclass(frozen=True)
class Sample:
    """One stored picture, its class and, where known, where its object is."""

    path: Path
    label: int
    box: Box | None = None
    trimap: Path | None = None


@dataclass(frozen=True)
class Folder:
    """The samples of a folder, in a fixed order.

    Attributes:
        train_name: where the training pictures were found, in words.
        test_name: where the test pictures were found.
        left_out: what of the folder is not used, in words.
        others: pictures of other kinds to measure on, by the names that their splits have in the index.
        is_official: whether the splits are those of a data set's owner, who alone can change them.
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    train_name: str = field(default="", compare=False)
    test_name: str = field(default="", compare=False)
    left_out: tuple[str, ...] = field(default=(), compare=False)
    others: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict, compare=False)
    is_official: bool = field(default=False, compare=False)

    def names_of(self, samples: Sequence[Sample]) -> tuple[str, ...]:
        """Return the path of each picture, relative to the folder's root, with forward slashes."""
        return tuple(Path(os.path.relpath(sample.path, self.root)).as_posix() for sample in samples)

    def name_of(self, sample: Sample) -> str:
        """Return a picture's path from the folder on, or all of it where it lies elsewhere."""
        is_inside = sample.path.is_relative_to(self.root)
        return str(sample.path.relative_to(self.root) if is_inside else sample.path)


def describe_folder(folder: Folder, name: str) -> list[str]:
    """Return what was understood of a folder, classes, splits and what is left out, and its imbalance."""
    classes = f"{len(folder.classes)} classes ({listed(folder.classes, at_most=4)})"
    parts = [classes, _split("training", folder.train, folder.train_name, len(folder.classes))]
    if folder.test:
        parts.append(_split("test", folder.test, folder.test_name, len(folder.classes)))
    parts += [_split(name, samples, "", len(folder.classes)) for name, samples in folder.others.items()]
    left = f"; left out: {'; '.join(folder.left_out)}" if folder.left_out else ""
    return [f"{name}: {text}" for text in (f"{', '.join(parts)}{left}", *_imbalance(folder))]


def _imbalance(folder: Folder) -> list[str]:
    counts = Counter(sample.label for sample in folder.train)
    (large, most), (small, least) = counts.most_common()[0], counts.most_common()[-1]
    if most < UNBALANCED * least:
        return []
    share = 100 * most / len(folder.train)
    return [
        f"the classes are unbalanced: {most} training pictures of {folder.classes[large]}, {least} of "
        f"{folder.classes[small]}; who always says {folder.classes[large]} is right for {share:.0f} % of "
        "them, so look at the balanced accuracy (the mean over the classes), too"
    ]


def _split(kind: str, samples: tuple[Sample, ...], where: str, num_classes: int) -> str:
    counts = Counter(sample.label for sample in samples)
    least, most = min(counts.values()), max(counts.values())
    least = least if len(counts) == num_classes else 0
    each = f"{most}" if least == most else f"{least} to {most}"
    return f"{len(samples)} {kind} pictures{f' in {where}' if where else ''} ({each} per class)"


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


def _first(found: Sequence[str], *, at_most: int = 5) -> str:
    rest = f" and {len(found) - at_most} more" if len(found) > at_most else ""
    return "; ".join(found[:at_most]) + rest
