"""What stands in for data and weights that are not there yet, so that a plan can be made without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from engine.presets import Settings
from engine.results.paper import paper_rows
from vitreg.train.data.dataset import IMAGENET_MEAN, Task
from vitreg.train.data.photographs import Photos
from vitreg.train.data.samples import Sample
from vitreg.train.models.start import Start, start_of


def stand_in_tasks(settings: Settings) -> list[Task]:
    """Return the paper's data sets with as many classes and pictures, each of which is one drawn picture.

    Where the object is is known of those that are trained on: everywhere.
    """
    size = settings.size
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    sides = (size * 8 // 3, 2 * size)  # as photographs are kept in memory
    picture = Image.fromarray(coarse).resize(sides, Image.Resampling.BICUBIC)
    tasks = []
    for row in paper_rows("table1"):
        classes, train, test = (int(row[name]) for name in ("classes", "train", "test"))
        samples = (Sample(Path("drawn"), 0),) * train
        photos = Photos(samples, size=size, augment=settings.augment, mean=IMAGENET_MEAN)
        photos.kept = dict.fromkeys(range(train), picture)
        photos.masks = dict.fromkeys(range(train), Image.new("L", sides, 255))
        train_labels, test_labels = (tuple(n % classes for n in range(total)) for total in (train, test))
        tests = torch.zeros(1, 3, size, size, dtype=torch.uint8).expand(test, -1, -1, -1)
        names = tuple(map(str, range(classes)))
        task = Task(row["dataset"], names, "drawn", size, photos, train_labels, tests, test_labels)
        tasks.append(replace(task, outlined=frozenset(range(train))))
    return tasks


def stand_in_starts(models: Mapping[str, str], size: int) -> list[Start]:
    """Return a source with random weights for each label of `models`."""
    return [
        start_of(
            timm.create_model(name).state_dict(), name, fingerprint=f"random {label}", size=size, label=label
        )
        for label, name in models.items()
    ]
