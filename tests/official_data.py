"""Tiny data sets in their owners' layouts: two classes, four training and two test pictures each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from small_data import write_picture

NUM_TRAIN, NUM_TEST = 4, 2
BOX = (8.0, 6.0, 20.0, 24.0)
"""Left, top, width and height of the object in every picture."""


def _pictures() -> Iterator[tuple[int, int, str]]:
    """Class, number and split; training and test pictures take turns, as in the owners' lists."""
    for label in range(2):
        for number in range(NUM_TRAIN + NUM_TEST):
            yield label, number, "test" if number % 3 == 2 else "train"


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def make_cub(parent: Path) -> Path:
    root = parent / "CUB_200_2011"
    names = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    files: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    boxes = []
    for image, (label, number, split) in enumerate(_pictures(), start=1):
        path = f"{names[label]}/{names[label][4:]}_{number:04}.jpg"
        write_picture(root / "images" / path, seed=image)
        files["images"].append(f"{image} {path}")
        files["image_class_labels"].append(f"{image} {label + 1}")
        files["train_test_split"].append(f"{image} {int(split == 'train')}")
        boxes.append(f"{image} 8.0 6.0 20.0 24.0")
    files |= {"bounding_boxes": boxes, "classes": [f"{i} {name}" for i, name in enumerate(names, start=1)]}
    for name, lines in files.items():
        _write(root / f"{name}.txt", lines)
    return root


def make_cars(parent: Path) -> Path:
    from scipy.io import savemat

    root = parent / "stanford_cars"
    fields = [("bbox_x1", "O"), ("bbox_y1", "O"), ("bbox_x2", "O"), ("bbox_y2", "O")]
    rows: dict[str, list[tuple[object, ...]]] = {"train": [], "test": []}
    for image, (label, _, split) in enumerate(_pictures()):
        file = f"{len(rows[split]) + 1:05}.jpg"  # both splits count from 1
        write_picture(root / f"cars_{split}" / file, seed=image)
        # MATLAB counts pixels from 1, and the last one is in the box.
        corners = tuple(np.uint16(number) for number in (9, 7, 28, 30))
        rows[split].append((*corners, np.uint8(label + 1), file))
    (root / "devkit").mkdir()
    for split, path in (("train", "devkit/cars_train_annos"), ("test", "cars_test_annos_withlabels")):
        table = np.array([rows[split]], dtype=[*fields, ("class", "O"), ("fname", "O")])
        savemat(root / f"{path}.mat", {"annotations": table})
    unlabelled = np.array([[(*row[:4], row[5]) for row in rows["test"]]], dtype=[*fields, ("fname", "O")])
    savemat(root / "devkit" / "cars_test_annos.mat", {"annotations": unlabelled})
    names = np.array([["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]], dtype=object)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    return root


def make_aircraft(parent: Path) -> Path:
    data = parent / "fgvc-aircraft-2013b" / "data"
    variants = ("707-320", "Falcon 900")  # a name with a space, as some have
    lists: dict[str, list[str]] = {"train": [], "val": [], "trainval": [], "test": []}
    boxes = []
    for image, (label, number, split) in enumerate(_pictures()):
        name = f"{1000 + image:07}"
        write_picture(data / "images" / f"{name}.jpg", seed=image)
        boxes.append(f"{name} 9 7 28 30")
        line = f"{name} {variants[label]}"
        part = split if split == "test" else ("train", "val")[number % 2]
        lists[part].append(line)
        if split == "train":
            lists["trainval"].append(line)
    for name, lines in lists.items():
        _write(data / f"images_variant_{name}.txt", lines)
    _write(data / "images_box.txt", boxes)
    _write(data / "variants.txt", list(variants))
    return data.parent


def make_dogs(parent: Path) -> Path:
    from scipy.io import savemat

    root = parent / "dogs"
    breeds = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")
    lists: dict[str, tuple[list[str], list[int]]] = {"train": ([], []), "test": ([], [])}
    for image, (label, number, split) in enumerate(_pictures()):
        file = f"{breeds[label]}/{breeds[label][:9]}_{number}.jpg"
        write_picture(root / "Images" / file, seed=image)
        annotation = root / "Annotation" / file.removesuffix(".jpg")
        annotation.parent.mkdir(parents=True, exist_ok=True)
        # Two dogs in each picture, whose boxes span BOX together.
        objects = "".join(
            f"<object><name>{breeds[label][10:]}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for x1, y1, x2, y2 in ((8, 10, 20, 30), (12, 6, 28, 20))
        )
        annotation.write_text(f"<annotation><filename>%s</filename>{objects}</annotation>")
        lists[split][0].append(file)
        lists[split][1].append(label + 1)
    for split, (files, labels) in lists.items():
        cells = np.array(files, dtype=object)[:, None]
        savemat(
            root / f"{split}_list.mat",
            {"file_list": cells, "labels": np.array(labels, dtype=np.uint8)[:, None]},
        )
    return root


def make_pet(parent: Path) -> Path:
    root = parent / "oxford-iiit-pet"
    breeds = ("Abyssinian", "american_bulldog")
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    for image, (label, number, split) in enumerate(_pictures()):
        name = f"{breeds[label]}_{number}"
        write_picture(root / "images" / f"{name}.jpg", seed=image)
        _write_mask(root / "annotations" / "trimaps" / f"{name}.png", object_value=1, around=3, other=2)
        lists["test" if split == "test" else "trainval"].append(f"{name} {label + 1} {label + 1} 1")
    for name, lines in lists.items():
        _write(root / "annotations" / f"{name}.txt", lines)
    return root


def make_voc(parent: Path) -> Path:
    root = parent / "VOCdevkit" / "VOC2012"
    names = [f"2007_{number:06}" for number in range(3)]
    for seed, name in enumerate(names):
        write_picture(root / "JPEGImages" / f"{name}.jpg", seed=seed)
        _write_mask(root / "SegmentationClass" / f"{name}.png", object_value=15, around=255, other=0)
        _write_mask(root / "SegmentationObject" / f"{name}.png", object_value=1, around=255, other=0)
    _write(root / "ImageSets" / "Segmentation" / "val.txt", names)
    return parent


def _write_mask(path: Path, *, object_value: int, around: int, other: int) -> None:
    left, top, width, height = (int(number) for number in BOX)
    values = np.full((40, 48), other, dtype=np.uint8)
    values[top - 1 : top + height + 1, left - 1 : left + width + 1] = around
    values[top : top + height, left : left + width] = object_value
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values).convert("P")
    picture.putdata(values.ravel().tolist())  # the values are palette indices
    picture.save(path)


MAKERS = {"CUB": make_cub, "Cars": make_cars, "Aircraft": make_aircraft, "Dogs": make_dogs, "Pet": make_pet}
NEEDS_SCIPY = ("Cars", "Dogs")
