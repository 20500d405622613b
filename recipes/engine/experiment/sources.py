"""What a table starts from: the pictures of its data sets, and the pre-trained models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from engine.presets import Settings
from vitreg.errors import InputError
from vitreg.files import prepare_out
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Statistics, Task
from vitreg.train.data.folder import data_root, read_folder
from vitreg.train.data.photographs import photo_task
from vitreg.train.data.samples import Folder, describe_folder
from vitreg.train.data.subset_lists import read_subset_list
from vitreg.train.data.test_sets import TestSet, read_test_sets, splits_and_folders
from vitreg.train.models.start import Start, photographed_start


def drawn_sources(
    out: Path, labels: Sequence[str], progress: Progress, *, is_quick: bool = False
) -> tuple[Task, list[Start]]:
    """Return the demo's task and its sources, which are pre-trained once."""
    from engine.demo.dataset import drawn_start, drawn_task  # only the demo needs the drawn world

    cache = out.resolve().parent / "cache"  # shared by all tables whose folders stand side by side
    prepare_out(cache)
    starts = []
    for label in labels:
        kind = f" ({label})" if label else ""
        with progress.stage(f"pre-training the demo's source{kind}, once") as update:
            starts.append(drawn_start(cache, label=label, is_quick=is_quick, on_step=update))
    return drawn_task(), starts


def photographed_starts(
    weights: Mapping[str, str],
    models: Mapping[str, str],
    size: int,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> list[Start]:
    """Return a source for each label of a table, of the weights and the timm model that the label has.

    Raises:
        InputError: As `photographed_start`, or two labels have the same weights.
    """
    starts = [
        photographed_start(place, models[label], size=size, label=label, say=say)
        for label, place in weights.items()
    ]
    seen: dict[str, str] = {}
    for start in starts:
        if start.fingerprint in seen:
            raise InputError(f"--weights: {seen[start.fingerprint]} and {start.label} are the same weights")
        seen[start.fingerprint] = start.label
    return starts


def photographed_tasks(
    places: Mapping[str, str],
    settings: Settings,
    statistics: Statistics,
    progress: Progress,
    *,
    cache: Path,
    lists: Mapping[str, Path] | None = None,
    tests: Sequence[str] = (),
) -> list[tuple[Task, dict[str, TestSet]]]:
    """Return a task for each folder or data set of a hub; all are looked through before one is opened.

    With each come its test sets of other kinds: `tests` are splits of its index, or NAME=DIR.

    Data sets of a hub are kept in `cache`. `lists` are files that list a subset of each data set, by its
    name; the tasks know them by the name that `lists_name` returns.

    Raises:
        InputError: A data set or a list cannot be used.
    """
    described: dict[str, tuple[Folder, tuple[int, ...]]] = {}
    others, folders = splits_and_folders(tests) if tests else ([], {})
    for name, place in places.items():
        root = data_root(place, cache, say=progress.say)
        folder = read_folder(root, name=name, others=others, say=progress.say)
        for text in describe_folder(folder, name):
            progress.say(text)
        described[name] = folder, tuple(read_subset_list(lists[name], folder) if lists else ())
    tasks = []
    for name, (folder, indices) in described.items():
        task = photo_task(
            folder,
            name=name,
            size=settings.size,
            augment=settings.augment,
            statistics=statistics,
            progress=progress,
        )
        if lists:
            task = replace(task, lists={lists_name(lists): indices})
        tasks.append((task, read_test_sets(folder, folders, size=settings.size) if tests else {}))
    return tasks


def lists_name(lists: Mapping[str, Path]) -> str:
    """Return the name of a share that is given by lists of files: it changes with any of them.

    Raises:
        InputError: A list cannot be read.
    """
    try:
        contents = [(name, path.read_bytes()) for name, path in sorted(lists.items())]
    except OSError as error:
        raise InputError(f"cannot read the list {error.filename}: {error.strerror}") from error
    return f"list-{hashlib.sha256(repr(contents).encode()).hexdigest()[:8]}"
