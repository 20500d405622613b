"""Which files below a folder are pictures of it: regular ones, each once, and nothing that a tool left."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vitreg.errors import InputError
from vitreg.pictures.reading import suffixes

_TOOLS = {
    *("@eadir", "@recycle", "@tmp", "@sharebin", "#recycle", "#snapshot", "$recycle.bin", "recycler"),
    *("__macosx", "__pycache__", "system volume information", "lost+found", "cvs", "node_modules"),
    *("thumbs", "_thumbs", "thumbnails", "wandb", "mlruns", "lightning_logs", "tb_logs"),
}
"""Folders that file managers, network drives, interpreters and trainers leave, in lower case."""

_READ_WITH = {
    **dict.fromkeys((".heic", ".heif"), ", which pip install pillow-heif reads"),
    ".avif": ", which Pillow 11.3 reads",
}
"""What reads pictures that are left out without it, by their endings."""

_MARKS = {"DONE", "report.json", "predictions.csv", "checkpoint.pt"}
"""Files by which a folder is known to hold what vitreg wrote."""

_OWN = re.compile(r"(attention|confusion|(table|figure|appendix)_?\w*)\.png")
"""Pictures that vitreg writes beside them."""


@dataclass
class Found:
    """The pictures of a folder in the order of their names, and how much was left out, by reason."""

    pictures: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, other: Found) -> None:
        """Take in what was found elsewhere."""
        self.pictures += other.pictures
        self.left_out += other.left_out


def is_passed_over(name: str) -> bool:
    """Return whether a file or folder of that name is hidden, or one that a tool leaves."""
    return name.startswith(".") or name.lower() in _TOOLS


def pictures_below(folder: Path, *, but_not: Path | None = None) -> Found:
    """Return the pictures in `folder` and below, folder by folder in the order of their names.

    Links are followed, and each folder and file is taken once. Left out, and counted, are hidden files, what
    tools leave, what vitreg wrote, special files, and files with other endings than `suffixes`.

    Args:
        folder: where to look.
        but_not: a folder that is none of it.

    Raises:
        InputError: A folder cannot be listed.
    """
    walk = _Walk(folder, but_not)
    walk.enter_all(folder)
    return walk.found


def pictures_in(folder: Path) -> Found:
    """Return the pictures in `folder` itself, as `pictures_below` does; folders in it play no part.

    Raises:
        InputError: The folder cannot be listed.
    """
    walk = _Walk(folder, None, looks_below=False)
    walk.enter(folder)
    return walk.found


def find_pictures(places: Iterable[Path]) -> Found:
    """Return each picture once: those given, and those in the folders given and below, sorted.

    Raises:
        InputError: A place does not exist or cannot be listed, or a folder holds no picture.
    """
    found = Found()
    for place in places:
        if not os.path.exists(place):
            raise InputError(f"there is no picture or folder {place}")
        if not os.path.isdir(place):
            found.pictures.append(place)
            continue
        inside = pictures_below(place)
        if not inside.pictures:
            left = f"; left out: {listed_counts(inside.left_out)}" if inside.left_out else ""
            raise InputError(f"no picture in {place}; looked for {', '.join(sorted(suffixes()))}{left}")
        inside.pictures.sort()
        found.add(inside)
    first: dict[str, Path] = {}
    for path in found.pictures:
        first.setdefault(os.path.realpath(path), path)
    found.pictures = list(first.values())
    return found


def is_result(folder: Path, found: Found | None = None) -> bool:
    """Return whether a folder, in which `found` was found, holds what vitreg wrote, and no other pictures."""
    if found is not None and not all(_OWN.fullmatch(path.name) for path in found.pictures):
        return False
    walk = _Walk(folder, None, looks_for_marks=True)
    walk.enter_all(folder)
    return walk.has_marks and all(_OWN.fullmatch(path.name) for path in walk.found.pictures)


def listed_counts(counts: Counter[str]) -> str:
    """Return what was left out in words, the most first."""
    return ", ".join(f"{count} {what}" for what, count in counts.most_common())


class _Walk:
    """One look through a folder, and through those below it where it looks there."""

    def __init__(
        self, root: Path, but_not: Path | None, *, looks_for_marks: bool = False, looks_below: bool = True
    ) -> None:
        self.real_root = os.path.realpath(root)
        self.but_not = None if but_not is None else os.path.realpath(but_not)
        self.looks_for_marks, self.looks_below = looks_for_marks, looks_below
        self.has_marks = False
        self.found = Found()
        self.waiting: list[Path] = []
        self.seen: set[tuple[int, int] | str] = set()

    def enter_all(self, folder: Path) -> None:
        """List a folder and those below; the pictures are then in the order of their folders and names."""
        self.waiting.append(folder)
        while self.waiting:
            self.enter(self.waiting.pop())
        self.found.pictures.sort(key=lambda path: (str(path.parent), path.name))

    def enter(self, folder: Path) -> None:
        """List one folder: its pictures are noted, and its folders are to be entered."""
        try:
            status = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"cannot read the folder {error.filename}: {error.strerror}") from error
        if not self._is_new(folder, status):
            self.found.left_out["folders that are linked again"] += 1
            return
        names = {entry.name for entry in entries}
        self.has_marks |= bool(names & _MARKS)
        for entry in entries:
            self._look_at(Path(entry.path), entry.name, is_own_folder=bool(names & _MARKS))

    def _look_at(self, path: Path, name: str, *, is_own_folder: bool) -> None:
        left_out, is_picture = self.found.left_out, path.suffix.lower() in suffixes()
        if is_passed_over(name):
            left_out["hidden files or folders of tools"] += 1
            return
        try:
            status = os.stat(path)
        except OSError:  # a link to nowhere
            if is_picture:
                self.found.pictures.append(path)  # whoever opens it says that it is lost
            else:
                left_out["links to nowhere"] += 1
            return
        if stat.S_ISDIR(status.st_mode):
            if self.looks_below:
                self._look_at_folder(path)
        elif not stat.S_ISREG(status.st_mode):
            left_out["special files"] += 1
        elif not is_picture:
            ending = path.suffix.lower()
            left_out[f"*{ending}{_READ_WITH.get(ending, '')}" if ending else "files without an ending"] += 1
        elif is_own_folder and _OWN.fullmatch(name) and not self.looks_for_marks:
            left_out["pictures that vitreg drew"] += 1
        elif not self._is_new(path, status):
            left_out["links to the same files"] += 1
        else:
            self.found.pictures.append(path)

    def _look_at_folder(self, path: Path) -> None:
        real = os.path.realpath(path)
        if real == self.but_not:
            self.found.left_out["folders of results"] += 1
        elif self.real_root == real or self.real_root.startswith(os.path.join(real, "")):
            self.found.left_out["links to a folder above"] += 1
        elif not self.looks_for_marks and _MARKS & set(_names_in(path)) and is_result(path):
            self.found.left_out["folders of results"] += 1
        else:
            self.waiting.append(path)

    def _is_new(self, path: Path, status: os.stat_result) -> bool:
        key = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
        is_new = key not in self.seen
        self.seen.add(key)
        return is_new


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # which is said when it is entered
        return []
