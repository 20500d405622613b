"""Photographs whose background gives the class away in the training, and says nothing in the test.

As Waterbirds: Sagawa et al. 2020 (ICLR), "Distributionally Robust Neural Networks for Group Shifts", arXiv
1911.08731, from the outlines and the backgrounds of a data set's own photographs.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.data.backgrounds import fill_holes, widen
from vitreg.errors import InputError
from vitreg.files import make_folder_once, prepare_out, sha256_of
from vitreg.train.basics.tables import csv_text
from vitreg.train.data.reading import read_objects
from vitreg.train.data.samples import Folder, Sample

SIDE = 256
"""Of the stored pictures, in pixels: what a network of 224 px has its centre cut from."""

COLUMNS = ("path", "label", "split", "trimap", "background", "usual", "object")


class Placement(NamedTuple):
    """Of each test picture of a tied set: its object, the pair of class and background, is that the usual."""

    objects: tuple[int, ...]
    cells: tuple[tuple[str, str], ...]
    is_usual: tuple[bool, ...]


def tied_folder(folder: Folder, cache: Path, *, rate: float) -> Path:
    """Return the folder of the tied set of `folder`, which is made once and kept in `cache`.

    Backgrounds, their object taken out and the hole filled from around it, are sorted by brightness into as
    many kinds as there are classes, at the quantiles of the training pictures. Of each class's training
    objects the share `rate` stands on one of the class's own kind, each once; a test object stands on one
    of each kind, equally many objects of each class. Undecided pixels of an outline count to the object. The
    backgrounds of training objects are those of training pictures, those of test objects of test pictures.

    Raises:
        InputError: The object of a picture is not known, or a kind has too few backgrounds.
    """
    samples = (*folder.train, *folder.test)
    if unknown := [sample for sample in samples if sample.trimap is None and sample.box is None]:
        raise InputError(
            f"--tied needs the object of each picture; {folder.root} does not say where it is in "
            f"{unknown[0].path}: give a trimap or a box in index.csv"
        )
    digest = hashlib.sha256(repr((rate, SIDE, folder.classes)).encode())
    for sample in samples:
        outline = sha256_of(sample.trimap) if sample.trimap else sample.box
        digest.update(f"{sample.label} {sha256_of(sample.path)} {outline}\n".encode())
    place = cache / f"tied-{digest.hexdigest()[:12]}"
    prepare_out(place)
    return make_folder_once(place, lambda part: _write(folder, part, rate))


def read_placement(root: Path) -> Placement:
    """Return what the index of a tied set says of its test pictures, in their order."""
    with open(root / "index.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    return Placement(
        tuple(int(row["object"]) for row in rows),
        tuple((row["label"], row["background"]) for row in rows),
        tuple(row["usual"] == "yes" for row in rows),
    )


def _write(folder: Folder, place: Path, rate: float) -> None:
    num_kinds, generator = len(folder.classes), np.random.default_rng(0)
    train, test = (_Pool(samples) for samples in (folder.train, folder.test))
    limits = np.quantile(train.brightness, np.arange(1, num_kinds) / num_kinds)
    rows = []
    for split, pool in (("train", train), ("test", test)):
        kinds = np.searchsorted(limits, pool.brightness, side="right")
        is_train = split == "train"
        pairs = (
            _training_pairs(pool.labels, num_kinds, rate, generator) if is_train else _test_pairs(pool.labels)
        )
        (place / split).mkdir()
        for number, (own, kind) in enumerate(pairs):
            behind = np.flatnonzero((kinds == kind) & (np.arange(len(kinds)) != own))
            if not len(behind):
                raise InputError(
                    f"--tied: {folder.root} has too few {split} backgrounds of the kind {kind} of {num_kinds}"
                )
            picture = pool.on(own, int(generator.choice(behind)))
            name = f"{split}/{number:05}"
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(place / f"{name}.jpg", quality=95)
            outline = 2 - pool.objects[own].numpy().astype(np.uint8)
            Image.fromarray(outline).save(place / f"{name}.png")
            label, usual = folder.classes[pool.labels[own]], "yes" if kind == pool.labels[own] else "no"
            rows.append([f"{name}.jpg", label, split, f"{name}.png", f"brightness {kind}", usual, own])
    (place / "index.csv").write_text(csv_text([COLUMNS, *rows]), encoding="utf-8", newline="")


class _Pool:
    """Pictures, their objects, and what is left of them without."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.labels = [sample.label for sample in samples]
        pictures, objects = zip(*read_objects(samples, SIDE), strict=True)
        self.pictures, self.objects = torch.stack(pictures), torch.stack(objects)
        empty = [
            fill_holes(one[None], widen(mask[None])) for one, mask in zip(pictures, objects, strict=True)
        ]
        self.empty = torch.cat(empty)
        self.brightness = self.empty.float().mean((1, 2, 3)).numpy()

    def on(self, own: int, other: int) -> Tensor:
        """Return the object of a picture on the background of another, uint8 [3, side, side]."""
        return torch.where(self.objects[own], self.pictures[own], self.empty[other])


def _training_pairs(
    labels: Sequence[int], num_kinds: int, rate: float, generator: np.random.Generator
) -> list[tuple[int, int]]:
    """Return each training picture's place and kind of background, the share `rate` of a class its own."""
    pairs: list[tuple[int, int]] = []
    for label in range(num_kinds):
        members = generator.permutation(np.flatnonzero(np.array(labels) == label)).tolist()
        tied = round(rate * len(members))
        others = [kind for kind in range(num_kinds) if kind != label]
        kinds = [label] * tied + [others[i % len(others)] for i in range(len(members) - tied)]
        pairs += zip(members, kinds, strict=True)
    return sorted(pairs)


def _test_pairs(labels: Sequence[int]) -> list[tuple[int, int]]:
    """Return the places of equally many test pictures of each class, each with every kind of background."""
    least = min(Counter(labels).values())
    kept = [own for label in sorted(set(labels)) for own in np.flatnonzero(np.array(labels) == label)[:least]]
    return [(int(own), kind) for own in kept for kind in range(len(set(labels)))]
