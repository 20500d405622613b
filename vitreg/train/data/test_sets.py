"""Test pictures of another kind than the training pictures: to measure what a model is worth under shift."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from vitreg.errors import InputError
from vitreg.train.data.dataset import Task
from vitreg.train.data.folder import read_folder
from vitreg.train.data.reading import in_one_line, read_pictures
from vitreg.train.data.samples import Folder, Sample, file_digests
from vitreg.wording import listed


@dataclass(frozen=True)
class TestSet:
    """Labelled pictures as the network sees them: uint8 [n, 3, size, size], and their objects where known.

    `groups` says of each picture which of them belong together, since they show the same object, and `beside`
    names the test set with the same objects as they usually stand. `names` are those of the pictures.
    """

    __test__ = False  # pytest takes it for tests

    name: str
    pictures: Tensor = field(repr=False)
    labels: tuple[int, ...] = field(repr=False)
    masks: Tensor | None = field(default=None, repr=False)
    groups: tuple[int, ...] = field(default=(), repr=False)
    beside: str = ""
    names: tuple[str, ...] = field(default=(), repr=False)

    @property
    def fingerprint(self) -> str:
        """What tells its pictures, labels and objects from others."""
        parts = [self.pictures] + ([] if self.masks is None else [self.masks])
        digest = hashlib.sha256(repr((self.labels, self.groups)).encode())
        for part in parts:
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def task(self, task: Task) -> Task:
        """Return the task with these pictures as its test pictures."""
        return replace(
            task, test=self.pictures, test_labels=self.labels, test_masks=self.masks, test_names=()
        )


def splits_and_folders(texts: Sequence[str]) -> tuple[list[str], dict[str, Path]]:
    """Return what `--test NAME NAME=DIR …` names: splits of the index, and folders by their names.

    Raises:
        InputError: A name is given twice, or cannot be a part of a file's name.
    """
    pairs = [text.partition("=")[::2] for text in texts]
    names = [name for name, _ in pairs]
    for text, name in zip(texts, names, strict=True):
        if not re.fullmatch(r"\w[\w.-]*", name) or names.count(name) > 1:
            raise InputError(
                f"--test {text}: expected a split of index.csv or NAME=DIR, each name once, in letters, "
                "digits, points and hyphens"
            )
    return [name for name, place in pairs if not place], {name: Path(place) for name, place in pairs if place}


def read_test_sets(folder: Folder, places: Mapping[str, Path], *, size: int) -> dict[str, TestSet]:
    """Return the test sets of a data set by name: those of its own index, and folders of the same classes.

    Of the folders in `places` they are the test pictures, or all where there are none; `size` is the side of
    the network's input in pixels.

    Raises:
        InputError: A folder has other classes, a picture cannot be read, or is one of the training.
    """
    samples = {**folder.others, **{name: _samples(folder, name, place) for name, place in places.items()}}
    for name, found in samples.items():
        digests = file_digests((*folder.train, *found))
        trained_on = set(digests[: len(folder.train)])
        for sample, digest in zip(found, digests[len(folder.train) :], strict=True):
            if digest in trained_on:
                raise InputError(
                    f"--test {name}: {sample.path} is a training picture, too; take it out of one of the two"
                )
    return {
        name: replace(_read(name, found, size), names=tuple(map(folder.name_of, found)))
        for name, found in samples.items()
    }


def read_source_pictures(place: Path, num_classes: int, *, size: int) -> TestSet:
    """Return pictures of a source's own task, labelled by the outputs of its head.

    Args:
        place: an index.csv whose labels are the outputs' numbers, or a folder for each class, in their order.
        num_classes: outputs of the head.
        size: side of the network's input in pixels.

    Raises:
        InputError: The labels are not those of the head, or a picture cannot be read.
    """
    folder = read_folder(place, needs_train=False, needs_test=False)
    if all(name.isdecimal() for name in folder.classes):
        number = [int(name) for name in folder.classes]
    else:
        number = list(range(len(folder.classes)))
    are_all = number == list(range(num_classes))
    if max(number) >= num_classes or not (are_all or folder.classes[0].isdecimal()):
        raise InputError(
            f"--source-data {place}: expected {num_classes} classes, as the source's head has, or their "
            f"numbers from 0 as labels, found {len(number)} ({listed(folder.classes, at_most=3)})"
        )
    samples = [replace(one, label=number[one.label]) for one in folder.test or folder.train]
    return _read("source", samples, size)


def _samples(folder: Folder, name: str, place: Path) -> tuple[Sample, ...]:
    other = read_folder(place, needs_train=False, needs_test=False)
    if unknown := sorted(set(other.classes) - set(folder.classes)):
        raise InputError(
            f"--test {name}={place}: expected classes of the training pictures ({listed(folder.classes)}), "
            f"found {listed(unknown)}; rename or leave them out"
        )
    number = {label: folder.classes.index(title) for label, title in enumerate(other.classes)}
    return tuple(replace(sample, label=number[sample.label]) for sample in other.test or other.train)


def _read(name: str, samples: Sequence[Sample], size: int) -> TestSet:
    found = list(read_pictures([sample.path for sample in samples], size))
    if refused := [str(one) for one in found if isinstance(one, InputError)]:
        raise InputError(in_one_line(refused))
    pictures = torch.stack([one for one in found if isinstance(one, Tensor)])
    return TestSet(name, pictures, tuple(sample.label for sample in samples))
