"""Which pictures of a folder one fine-tuning trains on and which it is measured on, and where it starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task
from vitreg.train.data.folder import read_folder
from vitreg.train.data.photographs import photo_task
from vitreg.train.data.samples import Folder, describe_folder, file_digests
from vitreg.train.data.subset import split
from vitreg.train.data.test_sets import TestSet, read_test_sets, splits_and_folders
from vitreg.train.models.start import Start, input_statistics, photographed_start
from vitreg.train.models.stored import Card
from vitreg.train.options import FinetuneOptions


@dataclass(frozen=True)
class Pictures:
    """What is trained on and measured on, and where it starts from.

    `measured_on` says what the measured pictures are, and `notes` what was understood of the folder. `tests`
    are measured on, too, and choose nothing.
    """

    task: Task
    measured_on: str
    start: Start
    card: Card
    notes: tuple[str, ...] = ()
    tests: tuple[TestSet, ...] = ()


def read_labelled(
    data: Path, weights: str, options: FinetuneOptions, progress: Progress, *, but_not: Path
) -> Pictures:
    """Return the pictures in `data`, a part of them held out where there are no test pictures.

    The folder `but_not` inside it, of results, holds no pictures of a class.

    Raises:
        InputError: The pictures or the weights cannot be used.
    """
    notes: list[str] = []

    def say(text: str) -> None:
        progress.say(text)
        notes.append(text)

    splits, folders = splits_and_folders(options.test)
    folder = read_folder(data, needs_test=False, but_not=but_not, others=splits)
    for text in describe_folder(folder, data.resolve().name):
        say(text)
    start = photographed_start(weights, options.model, size=options.size, say=say)
    measured_on = "the test pictures"
    if not folder.test:
        folder = _hold_out(folder, options.hold_out, seed=options.seed)
        measured_on = "pictures held out from training"
        say(
            f"no test pictures in {folder.root}: {len(folder.test)} pictures are held out for testing, "
            f"{len(folder.train)} are used for training"
        )
    tests = tuple(read_test_sets(folder, folders, size=options.size).values())
    statistics = input_statistics(options.normalise, options.model, options.size, say=say)
    task = photo_task(
        folder,
        name=data.resolve().name,
        size=options.size,
        augment=options.augment,
        statistics=statistics,
        progress=progress,
    )
    card = Card(start.name, {"img_size": options.size}, options.size, *statistics, folder.classes)
    return Pictures(task, measured_on, start, card, (*notes, *task.notes), tests)


def _hold_out(folder: Folder, rate: float, *, seed: int) -> Folder:
    labels, digests = [sample.label for sample in folder.train], file_digests(folder.train)
    kept, out = split(range(len(labels)), labels, rate, seed=seed, classes=folder.classes, digests=digests)
    train, test = (tuple(folder.train[index] for index in indices) for indices in (kept, out))
    return replace(folder, train=train, test=test)
