"""A list of files, `index.csv`: what each row says, and what is wrong with which line."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from vitreg.errors import InputError
from vitreg.pictures.finding import pictures_below
from vitreg.train.data.layouts.names import split_of, twins
from vitreg.train.data.samples import Box, Folder, Sample
from vitreg.wording import listed

_NOWHERE = ("unlisted", "none")
"""What the split of a row is that is passed over."""


def read_index(root: Path, others: Collection[str] = ()) -> Folder:
    """Return the pictures that `index.csv` in `root` lists, without test pictures where it names none.

    Rows whose split is one of `others` are test pictures of another kind.

    Raises:
        InputError: It cannot be read, or a line says what cannot be, or contradicts an earlier one.
    """
    return _Index(root, others).folder()


class _Index:
    def __init__(self, root: Path, others: Collection[str]) -> None:
        self.root, self.file, self.others = root, root / "index.csv", others
        self.samples: dict[str, list[tuple[Path, str, Box | None, Path | None]]] = {}
        self.names: dict[str, tuple[str, str]] = {}  # of a label: its class, and the line that named it first
        self.lines: dict[str, str] = {}  # of a real file: the line that lists it
        self.passed_over = 0
        self.beside: set[str] = set()  # real files that are listed, and no pictures of a split
        for where, row in self._rows():
            self._take(where, row)
        if not self.names:
            raise InputError(f"{self.file} has no rows")
        if missing := [name for name in others if name not in self.samples]:
            raise InputError(f"{self.file} has no row whose split is {listed(map(repr, missing))}")

    def folder(self) -> Folder:
        """Return what was read."""
        self._check_names()
        labels = sorted(self.names, key=_by_number)
        number = {label: place for place, label in enumerate(labels)}
        of = {
            role: tuple(Sample(path, number[label], box, trimap) for path, label, box, trimap in found)
            for role, found in self.samples.items()
        }
        left_out = [f"{self.passed_over} rows of no split"] if self.passed_over else []
        known = self.lines.keys() | self.beside
        inside = pictures_below(self.root).pictures
        if unlisted := sum(os.path.realpath(path) not in known for path in inside):
            left_out.append(f"{unlisted} pictures that index.csv does not list")
        # Where there is a test split, a validation split beside it is left alone, so that the test figures
        # stay honest.
        if "test" in of and "val" in of:
            left_out.append(f"{len(of['val'])} validation pictures, as there are test pictures")
        return Folder(
            self.root,
            tuple(self.names[label][0] for label in labels),
            of.get("train", ()),
            of.get("test") or of.get("val", ()),
            train_name="index.csv",
            test_name="index.csv",
            left_out=tuple(left_out),
            others={name: of[name] for name in self.others},
        )

    def _rows(self) -> Iterator[tuple[str, dict[str, str]]]:
        reader = None
        try:
            with open(self.file, newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file, strict=True)
                header = next(reader, [])
                self._check_header(header)
                for cells in reader:
                    where = f"{self.file}, line {reader.line_num}"
                    if not any(cells):
                        continue
                    if len(cells) != len(header):
                        raise InputError(
                            f"{where}: expected {len(header)} cells as the header has, found {len(cells)}; "
                            "put a cell with a comma into quotes"
                        )
                    yield where, dict(zip(header, cells, strict=True))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            where = f"{self.file}, line {reader.line_num}" if reader and reader.line_num else str(self.file)
            raise InputError(f"cannot read {where}: {error}; expected a CSV in UTF-8") from error

    def _check_header(self, header: list[str]) -> None:
        if twice := [name for name, count in Counter(header).items() if count > 1]:
            raise InputError(f"{self.file} has the column {listed(map(repr, twice))} twice; rename one")
        self.path = next((name for name in ("path", "image") if name in header), None)
        if self.path is None or not {"label", "split"} <= set(header):
            raise InputError(
                f"{self.file} needs columns path (or image), label and split, separated by commas; has "
                f"{listed(header) or 'none'}"
            )
        self.name = next((name for name in ("class", "breed") if name in header), "label")

    def _take(self, where: str, row: dict[str, str]) -> None:
        assert self.path is not None
        path, label, split, name = row[self.path], row["label"], row["split"], row[self.name]
        where = f"{where}, {path}"
        if split.strip().lower() in _NOWHERE:
            self.passed_over += 1
            self.beside |= set(map(os.path.realpath, self._places(path)))
            return
        role = split.strip() if split.strip() in self.others else split_of(split)
        if role is None:
            raise InputError(
                f"{where}: split is {split!r}, expected one of train, trainval, val, test, or none for a "
                "picture of no split, or a name that --test gives"
            )
        if not label.strip() or not path.strip():
            raise InputError(f"{where}: no label or no path")
        known, first = self.names.setdefault(label, (name, where))
        if known != name:
            raise InputError(
                f"{where}: label {label} is the class {name!r} here, and {known!r} in {first}; correct one"
            )
        file = self._locate(path, where)
        real = os.path.realpath(file)
        if real in self.lines:
            raise InputError(f"{where}: {path} is listed twice, the first time in {self.lines[real]}")
        self.lines[real] = where
        trimap = self._locate(row["trimap"], where) if row.get("trimap") else None
        if trimap is not None:
            self.beside.add(os.path.realpath(trimap))
        self.samples.setdefault(role, []).append((file, label, _box(row, where), trimap))

    def _check_names(self) -> None:
        for what, names in (
            ("labels", list(self.names)),
            ("class names", [name for name, _ in self.names.values()]),
        ):
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise InputError(f"{self.file}: two labels have the class name {listed(twice)}")
            if pair := twins(names):
                lines = [where for label, (name, where) in self.names.items() if pair[1] in (label, name)]
                raise InputError(
                    f"{lines[0]}: the {what} {pair[0]!a} and {pair[1]!a} differ only in spaces, hyphens, "
                    "case, Unicode form or zeros; write one of them throughout"
                )

    def _locate(self, name: str, where: str) -> Path:
        if found := next((path for path in self._places(name) if path.is_file()), None):
            return found
        raise InputError(
            f"{where}: expected a path from {self.root} or its images/ on; there is no file {name}"
        )

    def _places(self, name: str) -> list[Path]:
        """Return where the file of a row may be; Windows writes a \\ between folders."""
        names = dict.fromkeys((name, name.replace("\\", "/")))
        return [self.root / folder / path for path in names for folder in ("", "images")]


def _by_number(label: str) -> tuple[bool, int, str]:
    try:
        return False, int(label), label
    except ValueError:
        return True, 0, label


def _box(row: dict[str, str], where: str) -> Box | None:
    texts = [row.get(f"bbox_{side}") or "" for side in "xywh"]
    if not any(texts):
        return None
    try:
        left, top, width, height = (float(text) for text in texts)
    except ValueError as error:
        raise InputError(
            f"{where}: the box needs four numbers, found {', '.join(map(repr, texts))}"
        ) from error
    if not (math.isfinite(left + top + width + height) and width > 0 and height > 0):
        raise InputError(f"{where}: the box {left, top, width, height} has no area")
    return left, top, width, height
