"""CUB-200-2011, as Caltech lays it out; the object is the box."""

from __future__ import annotations

from pathlib import Path

from vitreg.train.data.archives import Archive
from vitreg.train.data.official.layout import Layout
from vitreg.train.data.samples import Folder, Sample


def _read(root: Path) -> Folder:
    classes = CUB.table(root / "classes.txt", "class, name")
    places = {key: place for place, key in enumerate(classes)}
    images = CUB.table(root / "images.txt", "image, path")
    labels = CUB.table(root / "image_class_labels.txt", "image, class", keys=images)
    splits = CUB.table(root / "train_test_split.txt", "image, is_training", keys=images)
    # NOTE[DIFF]: segmentations/, a download of its own, is not read: its pixels are the votes of five people
    # and no trimap.
    boxes = CUB.table(root / "bounding_boxes.txt", "image, x, y, width, height", keys=images)
    samples: dict[str, list[Sample]] = {"1": [], "0": []}
    for image, (path,) in images.items():
        (split,) = splits[image]
        if split not in samples:
            CUB.refuse(root / "train_test_split.txt", f"0 or 1 for image {image}", repr(split))
        (key,) = labels[image]
        if key not in places:
            CUB.refuse(
                root / "image_class_labels.txt", f"a class of classes.txt for image {image}", repr(key)
            )
        box = CUB.box(f"{root / 'bounding_boxes.txt'}, image {image}", boxes[image], corners=False)
        samples[split].append(Sample(root / "images" / path, places[key], box))
    return CUB.make_folder(root, [name for (name,) in classes.values()], samples["1"], samples["0"])


CUB = Layout(
    name="CUB",
    title="CUB-200-2011",
    address="https://data.caltech.edu/records/65de6-vp158",
    files="images/, images.txt, classes.txt, image_class_labels.txt, train_test_split.txt and "
    "bounding_boxes.txt",
    folder="CUB_200_2011",
    places=(".",),
    marks=("image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"),
    archives=(
        Archive(
            "CUB_200_2011.tgz",
            "97eceeb196236b17998738112f37df78",
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        ),
    ),
    read=_read,
)
