"""PASCAL VOC 2012 val, as pictures with masks (table 4): a picture has several objects and no class."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vitreg.errors import InputError
from vitreg.train.data.archives import Archive
from vitreg.train.data.official.layout import Layout
from vitreg.train.data.samples import Folder


class MaskedPicture(NamedTuple):
    """A picture, and the files that give each of its pixels a class, and an object."""

    path: Path
    classes: Path
    objects: Path


def read_voc(root: Path) -> tuple[MaskedPicture, ...]:
    """Return the pictures of VOC 2012's segmentation val, in the order of its list.

    Raises:
        InputError: The list or a picture is missing.
    """
    base = VOC.find(root)
    if base is None:
        raise InputError(f"{root} is not PASCAL VOC 2012. {VOC.advice}")
    names = VOC.lines(base / "ImageSets" / "Segmentation" / "val.txt")
    pictures = tuple(
        MaskedPicture(
            base / "JPEGImages" / f"{name}.jpg",
            base / "SegmentationClass" / f"{name}.png",
            base / "SegmentationObject" / f"{name}.png",
        )
        for name in names
    )
    VOC.need_pictures([path for one in pictures for path in one])
    return pictures


def _no_classes(root: Path) -> Folder:
    raise InputError(
        f"{root} is {VOC.title}, whose pictures show several objects and have no class: it is for table 4"
    )


VOC = Layout(
    name="VOC",
    title="PASCAL VOC 2012",
    address="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    files="JPEGImages/, SegmentationClass/, SegmentationObject/, ImageSets/Segmentation/val.txt",
    folder="VOC2012",
    places=(".", "VOCdevkit", "VOC2012.unpacked/files/VOCdevkit"),
    marks=("ImageSets/Segmentation/val.txt", "SegmentationClass", "SegmentationObject"),
    archives=(
        Archive(
            "VOCtrainval_11-May-2012.tar",
            "6cd6e144f989b92b3379bac3b3de84fd",
            "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        ),
    ),
    read=_no_classes,
)
