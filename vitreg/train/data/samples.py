"""Pictures of a data set by class and split. No picture is opened here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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


def describe_folder(folder: Folder, name: str) -> str:
    """Return in a line what was understood of a folder: classes, splits, pictures, and what is left out."""
    classes = f"{len(folder.classes)} classes ({listed(folder.classes, at_most=4)})"
    parts = [classes, _split("training", folder.train, folder.train_name, len(folder.classes))]
    if folder.test:
        parts.append(_split("test", folder.test, folder.test_name, len(folder.classes)))
    parts += [_split(name, samples, "", len(folder.classes)) for name, samples in folder.others.items()]
    left = f"; left out: {'; '.join(folder.left_out)}" if folder.left_out else ""
    return f"{name}: {', '.join(parts)}{left}"


def imbalance(folder: Folder) -> str | None:
    """Return in a line that some classes have far more training pictures than others, or None."""
    counts = Counter(sample.label for sample in folder.train)
    (large, most), (small, least) = counts.most_common()[0], counts.most_common()[-1]
    if most < UNBALANCED * least:
        return None
    share = 100 * most / len(folder.train)
    return (
        f"the classes are unbalanced: {most} training pictures of {folder.classes[large]}, {least} of "
        f"{folder.classes[small]}; who always says {folder.classes[large]} is right for {share:.0f} % of "
        "them, so look at the balanced accuracy (the mean over the classes), too"
    )


def _split(kind: str, samples: tuple[Sample, ...], where: str, num_classes: int) -> str:
    counts = Counter(sample.label for sample in samples)
    least, most = min(counts.values()), max(counts.values())
    least = least if len(counts) == num_classes else 0
    each = f"{most}" if least == most else f"{least} to {most}"
    return f"{len(samples)} {kind} pictures{f' in {where}' if where else ''} ({each} per class)"
