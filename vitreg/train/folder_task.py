"""A folder of photographs as a task, with every picture opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import timm

from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Task
from vitreg.train.data.hub_dataset import PREFIX, hub_folder, parse_hub_data
from vitreg.train.data.photographs import photo_task
from vitreg.train.data.samples import Folder
from vitreg.train.models.weights import empty_model


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of the network's input, by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def input_statistics(
    normalise: str | None, model: str, size: int, *, say: Callable[[str], None]
) -> Statistics:
    """Return ImageNet's mean and deviation, or those that timm notes for `model` if `normalise` is "model".

    Where nobody chose and timm notes others, it is said.
    """
    fixed = timm.data.resolve_model_data_config(empty_model(model, num_classes=2, size=size))
    noted = Statistics(tuple(fixed["mean"]), tuple(fixed["std"]))
    if normalise == "model":
        return noted
    imagenet = Statistics(IMAGENET_MEAN, IMAGENET_STD)
    if normalise is None and noted != imagenet:
        say(
            f"pictures are normalised as ImageNet's; timm notes a mean of {noted.mean} and a deviation of "
            f"{noted.std} for {model}: if your weights are timm's, add --normalise model"
        )
    return imagenet


def folder_task(
    folder: Folder, name: str, *, size: int, augment: str, statistics: Statistics, progress: Progress
) -> Task:
    """Return the task of a folder, with every picture opened."""
    with progress.stage(f"reading the pictures of {name}") as update:
        task = photo_task(
            folder,
            name=name,
            size=size,
            augment=augment,
            mean=statistics.mean,
            std=statistics.std,
            on_picture=update,
        )
    for note in task.notes:
        progress.say(f"{name}: {note}")
    train_names, test_names = folder.names_of(folder.train), folder.names_of(folder.test)
    return replace(task, train_names=train_names, test_names=test_names)


def data_root(place: str, cache: Path, *, say: Callable[[str], None]) -> Path:
    """Return the folder or archive of a data set; one of a hub is fetched into `cache`, once."""
    return hub_folder(parse_hub_data(place), cache, say=say) if place.startswith(PREFIX) else Path(place)
