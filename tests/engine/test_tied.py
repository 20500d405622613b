from __future__ import annotations

import csv
import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data.backgrounds import fill_holes, widen
from engine.data.tied import SIDE, read_placement, tied_folder
from small_data import write_index, write_picture
from vitreg.errors import InputError
from vitreg.train.data.folder import read_folder

EACH = 10
"""Training pictures of a class; the test has as many of the first and two less of the second."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tied")
    trimap = np.full((64, 64), 2, np.uint8)
    trimap[16:40, 16:40] = 3
    trimap[20:36, 20:36] = 1
    rows = []
    for number, (split, label, place) in enumerate(itertools.product(("train", "test"), (0, 1), range(EACH))):
        if split == "test" and label == 1 and place >= EACH - 2:
            continue
        write_picture(root / f"{number}.png", seed=number, width=64, height=64)
        with Image.open(root / f"{number}.png") as picture:
            darker = np.asarray(picture) // 4 + 15 * place
        darker[trimap != 2] = (250, 0, 0) if label else (0, 0, 250)  # the objects are of one colour
        Image.fromarray(darker).save(root / f"{number}.png")
        Image.fromarray(trimap).save(root / f"t{number}.png")
        rows.append([f"{number}.png", f"class{label}", split, f"t{number}.png"])
    write_index(root, rows, ["path", "label", "split", "trimap"])
    return root


def backgrounds(data: Path, split: str) -> list[torch.Tensor]:
    """Return the emptied pictures of a split, at the stored size."""
    folder = read_folder(data)
    found = []
    for sample in folder.train if split == "train" else folder.test:
        assert sample.trimap is not None
        with Image.open(sample.path) as picture, Image.open(sample.trimap) as trimap:
            pixels = np.array(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            mask = np.array(trimap.resize((SIDE, SIDE), Image.Resampling.NEAREST)) != 2
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        found.append(fill_holes(image, widen(torch.from_numpy(mask)[None]))[0])
    return found


def test_backgrounds_give_the_class_away_in_the_training_alone(data: Path, tmp_path: Path) -> None:
    place = tied_folder(read_folder(data), tmp_path, rate=0.8)
    with open(place / "index.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    train, test = ([row for row in rows if row["split"] == split] for split in ("train", "test"))
    pairs = Counter((row["label"], row["background"]) for row in train)
    assert pairs == {
        ("class0", "brightness 0"): 8,
        ("class0", "brightness 1"): 2,
        ("class1", "brightness 1"): 8,
        ("class1", "brightness 0"): 2,
    }
    assert Counter(row["usual"] for row in train) == {"yes": 16, "no": 4}
    # Every object of the training once; of the test equally many of each class, each on every kind.
    assert sorted(int(row["object"]) for row in train) == list(range(2 * EACH))
    counts = Counter((row["label"], row["background"]) for row in test)
    assert set(counts.values()) == {EACH - 2}
    assert set(Counter(row["object"] for row in test).values()) == {2}
    found = read_placement(place)
    assert Counter(found.cells) == counts
    assert found.is_usual == tuple(label[-1] == kind[-1] for label, kind in found.cells)


def test_objects_stand_on_other_pictures_of_their_own_split(data: Path, tmp_path: Path) -> None:
    place = tied_folder(read_folder(data), tmp_path, rate=1.0)
    emptied = {split: backgrounds(data, split) for split in ("train", "test")}
    limit = np.median([float(one.float().mean()) for one in emptied["train"]])
    with open(place / "index.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        with Image.open(place / row["path"]) as opened, Image.open(place / row["trimap"]) as outline:
            pixels, mask = np.array(opened).astype(int), np.array(outline) == 1
        assert mask.mean() == (24 / 64) ** 2  # the undecided pixels count to the object
        colour = pixels[mask].mean(0)
        assert (colour[0] > 150) == (row["label"] == "class1")
        near = [
            np.abs(one.permute(1, 2, 0).numpy().astype(int)[~mask] - pixels[~mask]).mean()
            for one in emptied[row["split"]]
        ]
        behind = int(np.argmin(near))
        assert near[behind] < 12 < min(np.delete(near, behind))  # JPEG, and nothing else is near
        assert behind != int(row["object"])
        kind = int(float(emptied[row["split"]][behind].float().mean()) >= limit)
        assert row["background"] == f"brightness {kind}"


def test_a_set_is_made_once(data: Path, tmp_path: Path) -> None:
    place = tied_folder(read_folder(data), tmp_path, rate=0.8)
    before = os.stat(place / "index.csv").st_mtime_ns
    assert tied_folder(read_folder(data), tmp_path, rate=0.8) == place
    assert os.stat(place / "index.csv").st_mtime_ns == before
    assert tied_folder(read_folder(data), tmp_path, rate=0.5) != place
    assert len(list(tmp_path.iterdir())) == 2
    assert not list(tmp_path.glob("*/part"))


def test_without_outlines_it_is_refused(tmp_path: Path) -> None:
    rows = []
    for number in range(8):
        write_picture(tmp_path / f"{number}.png", seed=number)
        rows.append([f"{number}.png", str(number % 2), "train" if number < 4 else "test"])
    write_index(tmp_path, rows, ["path", "label", "split"])
    with pytest.raises(InputError, match=r"--tied needs the object of each picture; .*does not say where it"):
        tied_folder(read_folder(tmp_path), tmp_path / "cache", rate=0.9)
