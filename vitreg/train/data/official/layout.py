"""What the readers of all official layouts share: where they look, and how they say what is wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from vitreg.errors import InputError, import_library
from vitreg.train.data.archives import Archive
from vitreg.train.data.samples import Box, Folder, Sample


@dataclass(frozen=True)
class Layout:
    """A data set as its owner lays it out.

    `folder` is the name of its folder, `places` are where its files may lie below the folder that is given,
    and any one of `marks` says that they do.
    """

    name: str
    title: str
    address: str
    files: str
    folder: str
    places: tuple[str, ...]
    marks: tuple[str, ...]
    archives: tuple[Archive, ...]
    read: Callable[[Path], Folder] = field(repr=False)

    @property
    def advice(self) -> str:
        """What to put where, in one line."""
        names = " + ".join(archive.name for archive in self.archives)
        return f"{self.title}: a folder with {self.files}; or with {names} as downloaded; from {self.address}"

    def find(self, root: Path) -> Path | None:
        """Return the folder at or below `root` in which this layout begins, or None."""
        for place in (*self.places, f"{self.folder}.unpacked/files"):
            for base in dict.fromkeys((root / place, root / place / self.folder)):
                if any((base / mark).exists() for mark in self.marks):
                    return base
        return None

    def refuse(self, where: Path | str, expected: str, found: object) -> NoReturn:
        """Raise that something in the owner's files is not as it should be."""
        raise InputError(
            f"{where}: expected {expected}, found {found}; fetch {self.title} again from {self.address}"
        )

    def need(self, *paths: Path) -> Path:
        """Return the first of `paths` that is there."""
        for path in paths:
            if path.exists():
                return path
        raise InputError(f"{paths[0]} is missing. {self.advice}")

    def lines(self, path: Path) -> list[str]:
        """Return the lines of a text file that are not empty, without spaces around them."""
        try:
            lines = [line.strip() for line in self.need(path).read_text("utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {path}: {error}. {self.advice}") from error
        return [line for line in lines if line]

    def table(
        self, path: Path, columns: str, *, keys: Iterable[str] | None = None
    ) -> dict[str, tuple[str, ...]]:
        """Return the rows of a text file by their first column; all `keys` have to be there.

        `columns` names them, separated by commas; the last one takes the rest of the line, spaces and all.
        """
        count = columns.count(",") + 1
        rows: dict[str, tuple[str, ...]] = {}
        for line in self.lines(path):
            key, *rest = line.split(maxsplit=count - 1)
            if len(rest) < count - 1:
                self.refuse(path, f"lines of {columns}", repr(line))
            if key in rows:
                self.refuse(path, f"one line for {key}", "two")
            rows[key] = tuple(rest)
        if absent := [key for key in keys or () if key not in rows]:
            self.refuse(path, f"a line of {columns} for {absent[0]}", f"none ({len(absent)} such lines)")
        return rows

    def mat(self, path: Path) -> dict[str, Any]:
        """Return the variables of a MATLAB file, cells and structures as arrays."""
        reader = import_library("scipy.io", f"{path} is a MATLAB file: pip install scipy, which reads it")
        try:
            return reader.loadmat(str(self.need(path)), squeeze_me=True)
        except InputError:
            raise
        except Exception as error:  # scipy's reader raises whatever the broken bytes lead it into
            self.refuse(path, "a MATLAB file", f"{type(error).__name__}: {error}")

    def label(self, where: Path | str, text: object, num_classes: int) -> int:
        """Return a class counted from 0, from one counted from 1."""
        try:
            label = int(str(text))
        except ValueError:
            label = 0
        if not 1 <= label <= num_classes:
            self.refuse(where, f"a class from 1 to {num_classes}", repr(text))
        return label - 1

    def box(self, where: Path | str, numbers: Sequence[object], *, corners: bool, first: int = 0) -> Box:
        """Return a box from left, top, width, height, or from two `corners`.

        Corners are two points, or, where the owner counts pixels from `first` = 1, two pixels, the last one
        included.
        """
        try:
            left, top, *last = (float(str(number)) for number in numbers)
            width, height = (last[0] - left + first, last[1] - top + first) if corners else last
        except (ValueError, IndexError):
            width = height = left = top = math.nan
        if not (math.isfinite(left + top + width + height) and width > 0 and height > 0):
            self.refuse(where, "a box with an area", " ".join(map(str, numbers)))
        return left - first, top - first, width, height

    def make_folder(
        self, root: Path, classes: Sequence[str], train: Sequence[Sample], test: Sequence[Sample]
    ) -> Folder:
        """Return the folder, after a look whether each picture is on the disk, and listed once."""
        paths = [sample.path for sample in (*train, *test)]
        if twice := [path for path, count in Counter(paths).items() if count > 1]:
            self.refuse(root, "each picture in one split, once", f"{twice[0]} twice")
        trimaps = [sample.trimap for sample in (*train, *test) if sample.trimap is not None]
        self.need_pictures([*paths, *trimaps])
        return Folder(root, tuple(classes), tuple(train), tuple(test), is_official=True)

    def need_pictures(self, paths: Sequence[Path]) -> None:
        """Raise if any of the files is missing."""
        if missing := [path for path in paths if not path.is_file()]:
            raise InputError(
                f"{len(missing)} of the {len(paths)} pictures and masks of {self.title} are missing, "
                f"the first is {missing[0]}; unpack the archive again, or fetch it from {self.address}"
            )
