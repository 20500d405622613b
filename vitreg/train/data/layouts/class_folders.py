"""A folder for each class, perhaps below a folder for each split, under whatever name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitreg.errors import InputError
from vitreg.pictures.finding import is_passed_over, is_result, listed_counts, pictures_below, pictures_in
from vitreg.train.data.layouts.names import PARTS, Role, role_of, twins
from vitreg.train.data.samples import Folder, Sample
from vitreg.wording import listed


def split_folders(root: Path) -> dict[Role, list[str]]:
    """Return the names of the folders in `root` that are splits by their names, by what they are.

    A class may be called as a split is, such as `train` beside `bus`: with pictures of its own, and beside
    other folders that have them, it is a class.
    """
    names = _folders(root)
    found: dict[Role, list[str]] = {}
    for name in names:
        role = role_of(name)
        if role is not None:
            found.setdefault(role, []).append(name)
    splits = [name for some in found.values() for name in some]
    others = [name for name in names if name not in splits]
    if len(splits) == 1 and _has_pictures(root / splits[0]) and any(_has_pictures(root / n) for n in others):
        return {}
    return found


def read_class_folders(root: Path, *, but_not: Path | None = None) -> Folder:
    """Return the pictures in `root`: `SPLIT/CLASS/…`, or `CLASS/…`, then without test pictures.

    Where there is a test split, a validation split beside it is left out, so that the test figures stay
    honest.

    Raises:
        InputError: It is not laid out so, or in a way that may mean another thing.
    """
    splits = split_folders(root)
    if several := next((names for names in splits.values() if len(names) > 1), None):
        raise InputError(
            f"{root}: {listed(several)} are the same split by their names; expected one folder train/ and "
            "one test/: put them together, or give another folder"
        )
    if splits and "train" not in splits:
        found = listed(name for names in splits.values() for name in names)
        raise InputError(
            f"{root} holds neither index.csv nor train/ beside test/ or val/; found: "
            f"{listed(_folders(root))}; {found} alone cannot be trained on, expected train/ beside it"
        )
    if not splits:
        train = _classes(root, but_not)
        _check_no_splits(root, train.classes)
        return Folder(root, train.classes, train.samples, (), left_out=tuple(_describe(train.left_out)))
    train_name = splits["train"][0]
    test_name = (splits.get("test") or splits.get("val") or [""])[0]
    train = _classes(root / train_name, but_not, "training")
    notes = _describe(train.left_out, f"{train_name}/")
    test = _Classes((), ())
    if test_name:
        test = _classes(root / test_name, but_not, "test")
        notes += _describe(test.left_out, f"{test_name}/")
        _check_twins(root, (*train.classes, *test.classes))
        if unknown := sorted(set(test.classes) - set(train.classes)):
            raise InputError(
                f"{root}: no training picture for class {listed(unknown)}, which {test_name}/ has"
            )
    else:
        _check_no_test(root, train_name, train.classes)
    place = {name: label for label, name in enumerate(train.classes)}
    measured = tuple(Sample(s.path, place[test.classes[s.label]]) for s in test.samples)
    notes += _describe_unused(root, {train_name, test_name})
    return Folder(
        root,
        train.classes,
        train.samples,
        measured,
        train_name=f"{train_name}/",
        test_name=f"{test_name}/" if test_name else "",
        left_out=tuple(notes),
    )


@dataclass(frozen=True)
class _Classes:
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    left_out: Counter[str] = field(default_factory=Counter)


def _classes(root: Path, but_not: Path | None, split: str = "") -> _Classes:
    """Return the classes in a folder and their pictures, and count what is left out."""
    here = pictures_in(root)
    left_out = here.left_out
    names = _own_folders(root, left_out)
    found = {name: pictures_below(root / name, but_not=but_not) for name in names}
    kept = {}
    for name, inside in found.items():
        if (not inside.pictures and _holds(root / name, but_not)) or is_result(root / name, inside):
            left_out["folders of results"] += 1
            continue
        left_out += inside.left_out
        kept[name] = inside
    if here.pictures:
        left_out["pictures outside the class folders"] += len(here.pictures)
    empty = [name for name, inside in kept.items() if not inside.pictures]
    if not kept or (here.pictures and len(empty) == len(kept)):
        raise InputError(
            f"{root}: expected a folder of pictures for each class, found none"
            + (f"; left out: {listed_counts(left_out)}" if left_out else "")
            + ("; take it out, and have unlabelled pictures predicted" if split == "test" else "")
        )
    if empty or len(kept) < 2:
        which = f"no {split} picture for class" if split else "no picture in"
        only = next(iter(kept))
        wrong = f"{which} {listed(empty)}" if empty else f"found only {only}"
        if not empty and _folders(root / only):
            wrong += f"; if the classes are in it, give {root / only}"
        left = f"; left out: {listed_counts(left_out)}" if left_out else ""
        raise InputError(f"{root}: expected pictures in each of at least 2 class folders; {wrong}{left}")
    parts = [name for name in kept if name.lower() in PARTS]
    if len(parts) > 1:
        raise InputError(
            f"{root}: {listed(parts)} are parts of a data set by their names, not classes; expected a folder "
            "of pictures for each class, or an index.csv"
        )
    _check_twins(root, kept)
    samples = [Sample(path, label) for label, inside in enumerate(kept.values()) for path in inside.pictures]
    return _Classes(tuple(kept), tuple(samples), left_out)


def _own_folders(root: Path, left_out: Counter[str]) -> list[str]:
    """Return the names of the folders in `root` without links to where they lie, which are counted.

    Raises:
        InputError: Two of them are one folder.
    """
    above, first, names = os.path.realpath(root), dict[str, str](), []
    for name in _folders(root):
        real = os.path.realpath(root / name)
        if above == real or above.startswith(os.path.join(real, "")):
            left_out["links to a folder above"] += 1
        elif real in first:
            raise InputError(
                f"{root}: the class folders {first[real]} and {name} are one folder by a link; remove it"
            )
        else:
            first[real] = name
            names.append(name)
    return names


def _holds(folder: Path, place: Path | None) -> bool:
    return place is not None and place.resolve().is_relative_to(folder.resolve())


def _folders(root: Path) -> list[str]:
    """Return the names of the folders in `root` that may hold pictures, sorted."""
    try:
        names = sorted(entry.name for entry in os.scandir(root) if os.path.isdir(entry.path))
    except OSError as error:
        raise InputError(f"cannot read the data folder {root}: {error.strerror}") from error
    return [name for name in names if not is_passed_over(name)]


def _has_pictures(folder: Path) -> bool:
    return bool(pictures_in(folder).pictures)


def _check_no_splits(root: Path, classes: Sequence[str]) -> None:
    """Refuse splits that are called something else: folders without pictures that hold the same folders."""
    inside = {name: set(_folders(root / name)) for name in classes if not _has_pictures(root / name)}
    for name, folders in inside.items():
        for other, others in inside.items():
            both = folders & others
            if name < other and len(both) > 1 and all(map(role_of, both)):
                raise InputError(
                    f"{root}: expected splits that hold classes, found classes that hold splits: {name}/ "
                    f"and {other}/ with {listed(sorted(both))}; make {name}/{min(both)} "
                    f"{min(both)}/{name}, and so on"
                )
            if name < other and len(both) > 1:
                raise InputError(
                    f"{root}: {name}/ and {other}/ both hold {listed(sorted(both))}: are they "
                    "splits, and those the classes? Call them train/ and test/, or give every class a folder "
                    "of its own with its pictures"
                )


def _check_no_test(root: Path, train_name: str, classes: Sequence[str]) -> None:
    """Refuse a test split that is called something else: a folder that holds the same classes."""
    for name in _folders(root):
        both = sorted(set(_folders(root / name)) & set(classes))
        if name != train_name and len(both) > 1:
            raise InputError(
                f"{root}: expected test pictures in test/ beside {train_name}/, found {listed(both)} in "
                f"{name}/, too; call it test/, or take it out of {root}"
            )


def _check_twins(root: Path, names: Iterable[str]) -> None:
    if pair := twins(names):
        raise InputError(
            f"{root}: the class folders {pair[0]!a} and {pair[1]!a} differ only in spaces, hyphens, "
            "case, Unicode form or zeros; give both one name, or two that can be told apart"
        )


def _describe_unused(root: Path, used: set[str]) -> list[str]:
    """Return which folders beside the splits are not used, with the number of their pictures."""
    counted = {name: pictures_below(root / name) for name in _folders(root) if name not in used}
    beside = [f"{name}/ ({len(inside.pictures)} pictures)" for name, inside in counted.items()]
    loose = pictures_in(root)
    pictures = [f"{len(loose.pictures)} pictures beside the splits"] if loose.pictures else []
    return [*beside, *pictures, *_describe(loose.left_out)]


def _describe(left_out: Counter[str], where: str = "") -> list[str]:
    return [f"{listed_counts(left_out)}{f' in {where}' if where else ''}"] if left_out else []
