"""What a table starts from: the pictures of its data sets, and the pre-trained models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch

from engine.data import Folder, read_folder
from engine.errors import RecipeError
from engine.hub import open_weights
from engine.hub_data import hub_folder, parse_hub_data
from engine.photos import photo_task
from engine.plan import Start
from engine.progress import Progress
from engine.runs import prepare_out
from engine.settings import Settings
from engine.subset_lists import read_subset_list, train_names
from engine.task import IMAGENET_MEAN, IMAGENET_STD, Task
from engine.weights import empty_model, load_model


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of the network's input, by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def drawn_sources(
    out: Path, labels: Sequence[str], progress: Progress, *, is_quick: bool = False
) -> tuple[Task, list[Start]]:
    """Return the demo's task and its sources, which are pre-trained once."""
    from engine.drawn import drawn_start, drawn_task  # only the demo needs the drawn world

    cache = out.resolve().parent / "cache"  # shared by all tables whose folders stand side by side
    prepare_out(cache)
    starts = []
    for label in labels:
        kind = f" ({label})" if label else ""
        with progress.stage(f"pre-training the demo's source{kind}, once") as update:
            starts.append(drawn_start(cache, label=label, is_quick=is_quick, on_step=update))
    return drawn_task(), starts


def photographed_start(weights: str, settings: Settings, *, label: str = "") -> Start:
    """Return the timm model of the settings with `weights`, in memory.

    Raises:
        RecipeError: There is no such model, or the weights cannot be read or do not fit.
    """
    name, size = settings.model or "", settings.size
    empty_model(name, num_classes=2, size=size)
    state, fingerprint = open_weights(weights, name)
    load_model(name, state, num_classes=2, size=size)

    def create(num_classes: int, drop_path: float) -> torch.nn.Module:
        return load_model(name, state, num_classes=num_classes, size=size, drop_path=drop_path)

    return Start(name, fingerprint, create, label)


def photographed_starts(weights: dict[str, str], settings: Settings) -> list[Start]:
    """Return a source for each label of a table.

    Raises:
        RecipeError: As `photographed_start`, or two labels have the same weights.
    """
    starts = [photographed_start(place, settings, label=label) for label, place in weights.items()]
    seen: dict[str, str] = {}
    for start in starts:
        if start.fingerprint in seen:
            raise RecipeError(f"--weights: {seen[start.fingerprint]} and {start.label} are the same weights")
        seen[start.fingerprint] = start.label
    return starts


def input_statistics(normalise: str | None, settings: Settings, progress: Progress) -> Statistics:
    """Return ImageNet's mean and deviation, or for `model` those that timm notes for the settings' model.

    Where nobody chose and timm notes others, it is said.
    """
    fixed = timm.data.resolve_model_data_config(
        empty_model(settings.model or "", num_classes=2, size=settings.size)
    )
    noted = Statistics(tuple(fixed["mean"]), tuple(fixed["std"]))
    if normalise == "model":
        return noted
    imagenet = Statistics(IMAGENET_MEAN, IMAGENET_STD)
    if normalise is None and noted != imagenet:
        progress.say(
            f"pictures are normalised as ImageNet's; timm notes a mean of {noted.mean} and a deviation of "
            f"{noted.std} for {settings.model}: if your weights are timm's, add --normalise model"
        )
    return imagenet


def folder_task(
    folder: Folder, name: str, settings: Settings, statistics: Statistics, progress: Progress
) -> Task:
    """Return the task of a folder, with every picture opened."""
    with progress.stage(f"reading the pictures of {name}") as update:
        task = photo_task(
            folder,
            name=name,
            size=settings.size,
            augment=settings.augment,
            mean=statistics.mean,
            std=statistics.std,
            on_picture=update,
        )
    return replace(task, train_names=train_names(folder))


def photographed_tasks(
    places: Mapping[str, str],
    settings: Settings,
    statistics: Statistics,
    progress: Progress,
    *,
    cache: Path,
    lists: Mapping[str, Path] | None = None,
) -> list[Task]:
    """Return a task for each folder or data set of a hub; all are looked through before one is opened.

    Data sets of a hub are kept in `cache`. `lists` are files that list a subset of each data set, by its
    name; the tasks know them by the name that `lists_name` returns.

    Raises:
        RecipeError: A data set or a list cannot be used.
    """
    described: dict[str, tuple[Folder, tuple[int, ...]]] = {}
    for name, place in places.items():
        folder = read_folder(data_root(place, cache, say=progress.say), name=name, say=progress.say)
        described[name] = folder, tuple(read_subset_list(lists[name], folder) if lists else ())
    tasks = []
    for name, (folder, indices) in described.items():
        task = folder_task(folder, name, settings, statistics, progress)
        tasks.append(replace(task, lists={lists_name(lists): indices}) if lists else task)
    return tasks


def data_root(place: str, cache: Path, *, say: Callable[[str], None]) -> Path:
    """Return the folder or archive of a data set; one of a hub is fetched into `cache`, once."""
    hub = parse_hub_data(place)
    return Path(place) if hub is None else hub_folder(hub, cache, say=say)


def lists_name(lists: Mapping[str, Path]) -> str:
    """Return the name of a share that is given by lists of files: it changes with any of them.

    Raises:
        RecipeError: A list cannot be read.
    """
    try:
        contents = [(name, path.read_bytes()) for name, path in sorted(lists.items())]
    except OSError as error:
        raise RecipeError(f"cannot read the list {error.filename}: {error.strerror}") from error
    return f"list-{hashlib.sha256(repr(contents).encode()).hexdigest()[:8]}"
