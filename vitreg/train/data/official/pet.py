"""Oxford-IIIT Pet, as Oxford lays it out; the object is the trimap."""

from __future__ import annotations

from pathlib import Path

from vitreg.train.data.archives import Archive
from vitreg.train.data.official.layout import Layout
from vitreg.train.data.samples import Folder, Sample

_URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"


def _read(root: Path) -> Folder:
    # The boxes in annotations/xmls/ are those of the heads, and of a part of the pictures: not read.
    names: dict[int, str] = {}
    splits = []
    for split in ("trainval", "test"):
        path = root / "annotations" / f"{split}.txt"
        samples = []
        for image, (number, *_) in PET.table(path, "image, class, species, breed").items():
            label = PET.label(f"{path}, {image}", number, 37)
            breed = image.rpartition("_")[0].replace("_", " ").title()
            if names.setdefault(label, breed) != breed:
                PET.refuse(f"{path}, {image}", f"the class of {names[label]}", breed)
            trimap = root / "annotations" / "trimaps" / f"{image}.png"
            samples.append(Sample(root / "images" / f"{image}.jpg", label, trimap=trimap))
        splits.append(samples)
    if sorted(names) != list(range(len(names))):
        PET.refuse(root, "classes from 1 on without a gap", sorted(label + 1 for label in names))
    return PET.make_folder(root, [names[label] for label in sorted(names)], *splits)


PET = Layout(
    name="Pet",
    title="Oxford-IIIT Pet",
    address="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    files="images/, annotations/trainval.txt, annotations/test.txt, annotations/trimaps/",
    folder="oxford-iiit-pet",
    places=(".",),
    marks=("annotations/trainval.txt", "annotations/test.txt", "annotations/trimaps"),
    archives=(
        Archive("images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c", f"{_URL}/images.tar.gz"),
        Archive("annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f", f"{_URL}/annotations.tar.gz"),
    ),
    read=_read,
)
