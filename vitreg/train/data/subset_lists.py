"""Lists of the training pictures that a run may see, as authors publish them beside their figures.

A line is `PATH LABEL` or `PATH,LABEL`, as the first one is; if that is `path,label`, the file is a CSV, whose
further columns are passed over. Blank lines and those that begin with `#` say nothing.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from vitreg.errors import InputError
from vitreg.train.basics.tables import csv_text
from vitreg.train.data.samples import Folder
from vitreg.wording import cell, nearest

_Line = tuple[int, str, str]
"""The number of a line, from 1, its path and its label."""


def read_subset_list(path: Path, folder: Folder) -> list[int]:
    """Return the sorted indices into `folder.train` of the pictures that the list names.

    A line's path is relative to the folder's root, or else finds the one training picture that ends as it
    does, by whole names from the last one on: the list may be written for a folder above, beside or below
    (`train/auk/1.jpg` finds `images/auk/1.jpg`). A label is the name of a class, or its number in the order
    of `folder.classes`, from 0 or from 1 throughout.

    Raises:
        InputError: The list cannot be read or is empty; or a line (its number is told) names no training
            picture, a test picture, several, one that an earlier line has named, or another class than the
            picture's.
    """
    lines = list(_lines(path))
    if not lines:
        raise InputError(f"{path} names no picture; expected lines PATH LABEL or PATH,LABEL")
    find = _Finder(folder)
    first: dict[int, int] = {}
    for number, name, _ in lines:
        index = find(name, f"{path}, line {number}")
        if index in first:
            raise InputError(
                f"{path}, line {number}: {name} is the picture of line {first[index]} again; remove one"
            )
        first[index] = number
    labels = [folder.train[index].label for index in first]
    _check_labels(path, lines, labels, folder.classes)
    return sorted(first)


def write_subset_list(names: Sequence[str], labels: Sequence[str], indices: Sequence[int]) -> str:
    """Return the list of the pictures `indices` as a CSV, which `read_subset_list` reads.

    `names` (by `Folder.names_of`) and `labels` (the names of their classes) are of all training pictures.
    """
    return csv_text([("path", "label"), *((_path(names[i]), cell(labels[i])) for i in indices)])


def _path(name: str) -> str:
    """Return a path that no spreadsheet takes for a formula."""
    return f"./{name}" if cell(name).startswith("'") else name


def _lines(path: Path) -> Iterator[_Line]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the list {path}: {error}") from error
    if b"\0" in content:
        raise InputError(f"cannot read the list {path}: expected a text in UTF-8, found other bytes")
    # Names of files may be in another encoding, and are the same bytes on the disk.
    texts = content.decode("utf-8-sig", errors="surrogateescape").splitlines()
    told = [
        (number, text)
        for number, text in enumerate(texts, start=1)
        if text.strip() and not text.lstrip().startswith("#")
    ]
    first = _cells(told[0][1]) if told else []
    header = [cell.lower() for cell in first]
    is_table = {"path", "label"} <= set(header)
    places = (header.index("path"), header.index("label")) if is_table else (0, 1)
    for number, text in told[1:] if is_table else told:
        cells = _cells(text) if is_table or len(first) == 2 else text.rsplit(maxsplit=1)
        enough = len(cells) == len(header) if is_table else len(cells) == 2
        if not enough or not all(cells[place] for place in places):
            raise InputError(f"{path}, line {number}: {text.strip()!r} is not {_form(first, is_table)}")
        yield number, cells[places[0]], cells[places[1]]


def _cells(text: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([text], skipinitialspace=True))]


def _form(first: list[str], is_table: bool) -> str:
    return ",".join(first) if is_table else "PATH,LABEL" if len(first) == 2 else "PATH LABEL"


class _Finder:
    """Finds the training picture that a path names, among all of a folder's pictures."""

    def __init__(self, folder: Folder) -> None:
        self.count = len(folder.train)
        self.names = folder.names_of((*folder.train, *folder.test))
        self.indices = {name: index for index, name in enumerate(self.names)}
        self.ends: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for index, name in enumerate(self.names):
            parts = PurePosixPath(name).parts
            for start in range(len(parts)):
                self.ends[parts[start:]].append(index)

    def __call__(self, name: str, where: str) -> int:
        parts = tuple(part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "."))
        # The longest end that is known decides: a shorter one may be that of other pictures, too.
        known = next((parts[start:] for start in range(len(parts)) if parts[start:] in self.ends), ())
        exact = self.indices.get("/".join(parts))
        found = self.ends.get(known, []) if exact is None else [exact]
        training = [index for index in found if index < self.count]
        if not found:
            raise InputError(f"{where}: {name} is no picture of the folder{nearest(name, self.names)}")
        if not training:
            raise InputError(f"{where}: {name} is the test picture {self.names[found[0]]}; remove it")
        if len(training) > 1:
            shown = " or ".join(self.names[index] for index in training[:2])
            raise InputError(f"{where}: {name} may be {shown}; give its path from the folder's root")
        return training[0]


def _check_labels(path: Path, lines: Sequence[_Line], own: Sequence[int], classes: Sequence[str]) -> None:
    starts = [0, 1]  # where the list may count from, as far as its numbers say
    for (number, name, label), true in zip(lines, own, strict=True):
        label = label if label in classes else label.removeprefix("'")  # as `write_subset_list` may begin it
        if label in classes:
            fits = label == classes[true]
        elif label.isdecimal():
            starts = [start for start in starts if int(label) == true + start]
            fits = bool(starts)
        else:
            fits = False
        if not fits:
            raise InputError(
                f"{path}, line {number}: {name} has the label {label!r}; the folder's is {classes[true]!r}, "
                f"number {true} from 0; expected a class name, or numbers from 0 or from 1 throughout"
            )
