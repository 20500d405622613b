"""A folder of pictures: which file belongs to which class and split. No picture is opened here.

Besides the official layouts of the paper's data sets (`vitreg.train.data.official`), two are read:

* `train/CLASS/*.jpg` beside `test/CLASS/*.jpg` (or `val/`), as torchvision's `ImageFolder`;
* an `index.csv` with the columns `path` (or `image`), `label`, `split` (train, trainval, val or test) and,
  where known, a class name (`class` or `breed`), a box (`bbox_x`, `bbox_y`, `bbox_w`, `bbox_h`, in pixels of
  the stored picture) and a `trimap` (1 object, 2 background, 3 undecided). Paths are relative to the index's
  folder or to its `images/`.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from torchvision.datasets import ImageFolder

from vitreg.errors import InputError
from vitreg.train.data.samples import Box, Folder, Sample
from vitreg.wording import listed

_TRAIN = ("train", "trainval")
_TEST = ("test", "val")
_NOWHERE = ("unlisted", "none", "")  # rows that belong to no split are passed over


def read_folder(root: Path, *, name: str = "", say: Callable[[str], None] = lambda text: None) -> Folder:
    """Return what lies in `root`, in any layout; `name` is what the command line calls it.

    An archive, or a folder with the archives of the data set `name`, is unpacked beside itself, once.

    Raises:
        InputError: The folder is missing, unreadable or in no known layout, or another data set than `name`;
            a row of the index is unusable; a class has no training or no test picture.
    """
    from vitreg.train.data.official import (  # which build on the types above
        layout_of,
        read_official,
        unpacked,
    )

    root = unpacked(root, name, say=say)
    try:
        names = {entry.name for entry in root.iterdir()}
    except OSError as error:
        raise InputError(f"cannot read the data folder {root}: {error.strerror}") from error
    if "index.csv" in names:
        folder = _from_index(root)
    elif "train" in names and names & set(_TEST):
        folder = _from_class_folders(root, "test" if "test" in names else "val")
    elif (official := read_official(root, name)) is not None:
        folder = official
    else:
        layout = layout_of(name)
        raise InputError(
            f"{root} holds neither index.csv nor train/ beside test/ or val/; found: {listed(sorted(names))}"
            + ("" if layout is None else f". {layout.advice}")
        )
    for split, samples in (("training", folder.train), ("test", folder.test)):
        counts = Counter(sample.label for sample in samples)
        empty = [name for label, name in enumerate(folder.classes) if not counts[label]]
        if empty:
            raise InputError(f"{root}: no {split} picture for class {listed(empty)}")
    if len(folder.classes) < 2:
        raise InputError(f"{root}: at least 2 classes are needed, found {len(folder.classes)}")
    return folder


def _from_class_folders(root: Path, test_name: str) -> Folder:
    try:
        train, test = (ImageFolder(str(root / name), allow_empty=True) for name in ("train", test_name))
    except OSError as error:
        raise InputError(f"{root}: {error}") from error
    unknown = sorted(set(test.classes) - set(train.classes))
    if unknown:
        raise InputError(f"{root}: no training picture for class {listed(unknown)}, which {test_name}/ has")
    as_samples = [
        tuple(Sample(Path(path), train.class_to_idx[split.classes[label]]) for path, label in split.samples)
        for split in (train, test)
    ]
    return Folder(root, tuple(train.classes), *as_samples)


def _from_index(root: Path) -> Folder:
    try:
        with open(root / "index.csv", newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {root / 'index.csv'}: {error}") from error
    if not rows:
        raise InputError(f"{root / 'index.csv'} has no rows")
    columns = set(rows[0])
    path_column = next((name for name in ("path", "image") if name in columns), None)
    if path_column is None or not {"label", "split"} <= columns:
        raise InputError(
            f"{root / 'index.csv'} needs columns path (or image), label and split; has {listed(columns)}"
        )

    rows = [row for row in rows if row["split"] not in _NOWHERE]
    labels = sorted({row["label"] or "" for row in rows}, key=_by_number)
    label_index = {label: index for index, label in enumerate(labels)}
    name_column = next((name for name in ("class", "breed") if name in columns), "label")
    classes = {row["label"]: row[name_column] for row in rows}
    splits: dict[str, list[Sample]] = {name: [] for name in (*_TRAIN, *_TEST)}
    seen: set[Path] = set()
    for row in rows:
        where = f"{root / 'index.csv'}, {row[path_column]}"
        if row["split"] not in splits:
            raise InputError(f"{where}: split is {row['split']!r}, expected one of {', '.join(splits)}")
        if not row["label"] or not row[path_column]:
            raise InputError(f"{where}: no label or no path")
        path = _locate(root, row[path_column], where)
        if path in seen:
            raise InputError(f"{where}: {row[path_column]} is listed twice")
        seen.add(path)
        trimap = _locate(root, row["trimap"], where) if row.get("trimap") else None
        splits[row["split"]].append(Sample(path, label_index[row["label"]], _box(row, where), trimap))
    twice = [name for name, count in Counter(classes.values()).items() if count > 1]
    if twice:
        raise InputError(f"{root / 'index.csv'}: two labels have the class name {listed(twice)}")
    # Where there is a test split, a validation split beside it is left alone, so that the test figures stay
    # honest.
    test = splits["test"] or splits["val"]
    return Folder(
        root, tuple(classes[label] for label in labels), (*splits["train"], *splits["trainval"]), tuple(test)
    )


def _by_number(label: str) -> tuple[float, str]:
    try:
        return float(int(label)), label
    except ValueError:
        return math.inf, label


def _locate(root: Path, name: str, where: str) -> Path:
    for path in (root / name, root / "images" / name):
        if path.is_file():
            return path
    raise InputError(f"{where}: {name} is neither in {root} nor in its images/")


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
