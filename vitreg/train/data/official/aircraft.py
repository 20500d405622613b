"""FGVC-Aircraft 2013b, as Oxford lays it out; the classes are its 100 variants."""

from __future__ import annotations

from pathlib import Path

from vitreg.train.data.archives import Archive
from vitreg.train.data.official.layout import Layout
from vitreg.train.data.samples import Folder, Sample


def _read(root: Path) -> Folder:
    # NOTE[DIFF]: the lowest 20 pixels of each picture are a banner with the photographer's name. The paper
    # does not say whether it cuts it off; it is kept, as in torchvision's `FGVCAircraft`.
    classes = AIRCRAFT.lines(root / "variants.txt")
    boxes = AIRCRAFT.table(root / "images_box.txt", "image, xmin, ymin, xmax, ymax")
    splits = []
    for split in ("trainval", "test"):
        path = root / f"images_variant_{split}.txt"
        samples = []
        for image, (variant,) in AIRCRAFT.table(path, "image, variant").items():
            if variant not in classes:
                AIRCRAFT.refuse(f"{path}, image {image}", "a name of variants.txt", repr(variant))
            where = f"{root / 'images_box.txt'}, image {image}"
            box = AIRCRAFT.box(where, boxes.get(image, ()), corners=True, first=1)
            samples.append(Sample(root / "images" / f"{image}.jpg", classes.index(variant), box))
        splits.append(samples)
    return AIRCRAFT.make_folder(root, classes, *splits)


AIRCRAFT = Layout(
    name="Aircraft",
    title="FGVC-Aircraft 2013b",
    address="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    files="data/images/, data/variants.txt, data/images_variant_trainval.txt, data/images_variant_test.txt, "
    "data/images_box.txt",
    folder="fgvc-aircraft-2013b",
    places=(
        ".",
        "data",
        "fgvc-aircraft-2013b/data",
        "fgvc-aircraft-2013b.unpacked/files/fgvc-aircraft-2013b/data",
    ),
    marks=("variants.txt", "images_variant_trainval.txt", "images_variant_test.txt", "images_box.txt"),
    archives=(
        Archive(
            "fgvc-aircraft-2013b.tar.gz",
            "d4acdd33327262359767eeaa97a4f732",
            "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
        ),
    ),
    read=_read,
)
