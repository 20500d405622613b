"""Stanford Dogs, as Stanford lays it out; where Annotation/ is there, the object is the box."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from vitreg.train.data.archives import Archive
from vitreg.train.data.official.layout import Layout
from vitreg.train.data.samples import Box, Folder, Sample

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def _read(root: Path) -> Folder:
    names: dict[int, str] = {}
    has_boxes = (root / "Annotation").is_dir()
    splits = []
    for split in ("train", "test"):
        path = DOGS.need(root / f"{split}_list.mat", root / "lists" / f"{split}_list.mat")
        variables = DOGS.mat(path)
        files = np.atleast_1d(variables.get("file_list", ()))
        labels = np.atleast_1d(variables.get("labels", ()))
        if not len(files) or len(files) != len(labels):
            DOGS.refuse(path, "file_list and labels of one length", f"{len(files)} and {len(labels)}")
        samples = []
        for file, number in zip(map(str, files), labels, strict=True):
            label = DOGS.label(f"{path}, {file}", number, 120)
            breed = file.partition("/")[0]
            if names.setdefault(label, breed) != breed:
                DOGS.refuse(f"{path}, {file}", f"the class of {names[label]} in its folder", breed)
            box = _box(root / "Annotation" / file.removesuffix(".jpg")) if has_boxes else None
            samples.append(Sample(root / "Images" / file, label, box))
        splits.append(samples)
    if sorted(names) != list(range(len(names))):
        DOGS.refuse(root, "classes from 1 on without a gap", sorted(label + 1 for label in names))
    classes = [names[label].partition("-")[2] for label in sorted(names)]
    return DOGS.make_folder(root, classes, *splits)


def _box(path: Path) -> Box:
    """Return the box of the dog; where there are several, the one around all of them."""
    try:
        tree = ElementTree.parse(DOGS.need(path))
    except (ElementTree.ParseError, OSError) as error:
        DOGS.refuse(path, "an XML file", error)
    found = [[box.findtext(side, "") for side in _SIDES] for box in tree.iter("bndbox")]
    boxes = [DOGS.box(path, box, corners=True) for box in found]
    if not boxes:
        DOGS.refuse(path, "a bndbox", "none")
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return left, top, right - left, bottom - top


DOGS = Layout(
    name="Dogs",
    title="Stanford Dogs",
    address="http://vision.stanford.edu/aditya86/ImageNetDogs/",
    files="Images/, Annotation/, train_list.mat, test_list.mat",
    folder="stanford_dogs",
    places=(".",),
    marks=("train_list.mat", "test_list.mat", "lists/train_list.mat", "Annotation"),
    archives=(Archive("images.tar"), Archive("annotation.tar"), Archive("lists.tar")),
    read=_read,
)
