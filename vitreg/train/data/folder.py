"""A folder of pictures: which file belongs to which class and split. No picture is opened here.

Besides the official layouts of the paper's data sets (`vitreg.train.data.official`), these are read:

* `train/CLASS/*.jpg` beside `test/CLASS/*.jpg` or `val/CLASS/*.jpg`, also as `Training`, `valid` and so on,
  and `CLASS/*.jpg` alone, where a part is to be held out;
* an `index.csv` with the columns `path` (or `image`), `label`, `split` (train, trainval, val or test) and,
  where known, a class name (`class` or `breed`), a box (`bbox_x`, `bbox_y`, `bbox_w`, `bbox_h`, in pixels of
  the stored picture) and a `trimap` (1 object, 2 background, 3 undecided). Paths are relative to the index's
  folder or to its `images/`.

Which of them it is follows from what the folder holds, and the reader of that layout has the last word: what
it refuses is not tried as another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

from vitreg.errors import InputError
from vitreg.train.data.hub_dataset import PREFIX, hub_folder, parse_hub_data
from vitreg.train.data.layouts.class_folders import read_class_folders, split_folders
from vitreg.train.data.layouts.index import read_index
from vitreg.train.data.official import layout_of, read_official, unpack_official
from vitreg.train.data.samples import Folder
from vitreg.wording import listed


def data_root(place: str, cache: Path, *, say: Callable[[str], None]) -> Path:
    """Return the folder or archive of a data set; one of a hub is fetched into `cache`, once."""
    return hub_folder(parse_hub_data(place), cache, say=say) if place.startswith(PREFIX) else Path(place)


def read_folder(
    root: Path,
    *,
    name: str = "",
    needs_train: bool = True,
    needs_test: bool = True,
    but_not: Path | None = None,
    others: Collection[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Folder:
    """Return what lies in `root`, in any layout.

    An archive, or a folder with the archives of the data set `name`, is unpacked beside itself, once.

    Args:
        root: the folder or archive.
        name: what the command line calls the data set.
        needs_train: whether training pictures are wanted, of two classes at least.
        needs_test: whether test pictures are wanted; a folder without any is then refused.
        but_not: a folder that is none of the pictures, such as the one where results go.
        others: splits of an index that are test pictures of another kind.
        say: is told what takes long.

    Raises:
        InputError: The folder is missing, unreadable or in no known layout, or another data set than `name`;
            a row of the index is unusable; a class has no training or no test picture.
    """
    if not root.is_dir():
        root = unpack_official(root, name, say=say)
    try:
        names = sorted(entry.name for entry in root.iterdir())
    except OSError as error:
        raise InputError(f"cannot read the data folder {root}: {error.strerror}") from error
    if other := next((name for name in names if name.lower() == "index.csv" != name), None):
        raise InputError(f"{root}: expected the list of the pictures as index.csv, found {other}; rename it")
    if "index.csv" in names:
        folder = read_index(root, others)
    elif others:
        raise InputError(
            f"{root} has no index.csv whose splits could be {listed(others)}; give --test NAME=DIR"
        )
    else:
        splits = split_folders(root)
        official = None
        if not ("train" in splits and len(splits) > 1):
            official = read_official(unpack_official(root, name, say=say), name)
        if official is None and needs_test and len(splits) < 2:
            layout = layout_of(name)
            raise InputError(
                f"{root} holds neither index.csv nor train/ beside test/ or val/; found: {listed(names)}"
                + ("" if layout is None else f". {layout.advice}")
            )
        folder = official or read_class_folders(root, but_not=but_not)
    if needs_test and not folder.test:
        raise InputError(f"{root}: no test picture for class {listed(folder.classes)}")
    for split, samples in (("training", folder.train), ("test", folder.test)):
        counts = Counter(sample.label for sample in samples)
        empty = [name for label, name in enumerate(folder.classes) if not counts[label]]
        if empty and (samples or split == "training") and needs_train:
            raise InputError(f"{root}: no {split} picture for class {listed(empty)}")
    if len(folder.classes) < 2 and needs_train:
        raise InputError(f"{root}: at least 2 classes are needed, found {len(folder.classes)}")
    return folder
