"""Stanford Cars, as Stanford laid it out, which is also where torchvision's `StanfordCars` looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitreg.train.data.archives import Archive
from vitreg.train.data.official.layout import Layout
from vitreg.train.data.samples import Folder, Sample

_CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
_WITH_LABELS = "cars_test_annos_withlabels.mat"


def _read(root: Path) -> Folder:
    devkit = root / "devkit"
    meta = CARS.mat(devkit / "cars_meta.mat")
    if "class_names" not in meta:
        CARS.refuse(devkit / "cars_meta.mat", "class_names", "none")
    classes = [str(name) for name in np.atleast_1d(meta["class_names"])]
    # The test list of the devkit has no classes; the one with them was a download of its own.
    test = CARS.need(root / _WITH_LABELS, devkit / _WITH_LABELS)
    return CARS.make_folder(
        root,
        classes,
        _samples(devkit / "cars_train_annos.mat", root / "cars_train", len(classes)),
        _samples(test, root / "cars_test", len(classes)),
    )


def _samples(annotations: Path, pictures: Path, num_classes: int) -> list[Sample]:
    rows = np.atleast_1d(CARS.mat(annotations).get("annotations", ()))
    fields = {"fname", "class", *_CORNERS}
    if not fields <= set(rows.dtype.names or ()):
        CARS.refuse(annotations, f"annotations with {', '.join(sorted(fields))}", rows.dtype.names)
    samples = []
    for row in rows:
        where = f"{annotations}, {row['fname']}"
        label = CARS.label(where, row["class"], num_classes)
        box = CARS.box(where, [row[name] for name in _CORNERS], corners=True, first=1)
        samples.append(Sample(pictures / str(row["fname"]), label, box))
    return samples


CARS = Layout(
    name="Cars",
    title="Stanford Cars",
    address="https://ai.stanford.edu/~jkrause/cars/car_dataset.html (no longer served: from a copy)",
    files="cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat",
    folder="stanford_cars",
    places=(".",),
    marks=("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", _WITH_LABELS, "cars_train", "cars_test"),
    archives=(
        Archive("cars_train.tgz", "065e5b463ae28d29e77c1b4b166cfe61"),
        Archive("cars_test.tgz", "4ce7ebf6a94d07f1952d94dd34c4d501"),
        Archive("car_devkit.tgz", "c3b158d763b6e2245038c8ad08e45376"),
        Archive(_WITH_LABELS, "b0a2b23655a3edd16d84508592a98d10"),
    ),
    read=_read,
)
