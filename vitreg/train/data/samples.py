"""Pictures of a data set by class and split. No picture is opened here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels of the stored picture."""


@dataclass(frozen=True)
class Sample:
    """One stored picture, its class and, where known, where its object is."""

    path: Path
    label: int
    box: Box | None = None
    trimap: Path | None = None


@dataclass(frozen=True)
class Folder:
    """The samples of a folder, in a fixed order."""

    root: Path
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
