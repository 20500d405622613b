"""What stands in for data and weights that are not there yet, so that a plan can be made without them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn

from engine.presets import Settings
from engine.results.paper import paper_rows
from vitreg.train.data.dataset import IMAGENET_MEAN, Task
from vitreg.train.data.photographs import Photos
from vitreg.train.data.samples import Sample
from vitreg.train.models.start import Start
from vitreg.train.models.weights import load_model


def stand_in_tasks(settings: Settings) -> list[Task]:
    """Return the paper's data sets with as many classes and pictures, each of which is one drawn picture."""
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
        train_labels, test_labels = (tuple(n % classes for n in range(total)) for total in (train, test))
        tests = torch.zeros(1, 3, size, size, dtype=torch.uint8).expand(test, -1, -1, -1)
        names = tuple(map(str, range(classes)))
        tasks.append(Task(row["dataset"], names, "drawn", size, photos, train_labels, tests, test_labels))
    return tasks


def stand_in_starts(models: Mapping[str, str], size: int) -> list[Start]:
    """Return a source with random weights for each label of `models`."""

    def start(label: str, name: str) -> Start:
        state = dict(timm.create_model(name).state_dict())

        def create(num_classes: int, drop_path: float) -> nn.Module:
            return load_model(name, state, num_classes=num_classes, size=size, drop_path=drop_path)

        return Start(name, f"random {label}", create, label)

    return [start(label, name) for label, name in models.items()]
