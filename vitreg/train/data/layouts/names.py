"""What folders and columns are called: splits in other words, and class names that only look different."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

Role = Literal["train", "test", "val"]

_WORDS: dict[str, Role] = {
    **dict.fromkeys(("train", "training", "trainval", "trn", "learn", "learning"), "train"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "eval", "evaluation"), "val"),
}
_BESIDE = {"set", "data", "dataset", "images", "image", "imgs", "img", "pictures", "photos", "split", "seg"}
"""What may stand beside such a word: `train_images`, `Test-Set`."""

PARTS = {
    *("images", "image", "imgs", "img", "jpegimages", "pictures"),
    *("annotations", "annotation", "labels", "masks", "mask", "trimaps", "segmentations"),
    *("segmentationclass", "segmentationobject", "xmls"),
}
"""What folders are called that hold parts of a data set, and no class."""


def role_of(name: str) -> Role | None:
    """Return which split a folder is, going by its name, or None: `Train`, `validation`, `test_set`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word.removesuffix("set") or word for word in re.split(r"[^a-z]+", spaced.lower()) if word]
    roles = {_WORDS.get(word) for word in words if word not in _BESIDE}
    return roles.pop() if len(roles) == 1 else None


def split_of(text: str) -> Role | None:
    """Return which split a cell of an index names, or None."""
    return _WORDS.get(text.strip().lower())


def twins(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two names that only look different, if any.

    They differ in spaces or what stands for them (`_`, `-`), in what cannot be seen, in case, in Unicode's
    forms, or in zeros around a number: a spreadsheet makes 1 or 1.0 of 01.
    """
    seen: dict[str, str] = {}
    for name in dict.fromkeys(names):
        visible = (c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
        spaced = re.sub(r"(?<=\w)[-_]+(?=\w)", " ", "".join(visible))
        key = " ".join(spaced.casefold().split())
        key = str(int(number[1])) if (number := re.fullmatch(r"(\d+)(\.0*)?", key)) else key
        if key in seen:
            return seen[key], name
        seen[key] = name
    return None
