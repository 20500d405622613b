from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from vitreg.errors import InputError
from vitreg.train.data.folder import read_folder
from vitreg.train.data.test_sets import read_test_sets

COLOURS = {"red": (200, 0, 0), "blue": (0, 0, 200), "green": (0, 200, 0)}


def picture(path: Path, colour: str, size: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), COLOURS[colour]).save(path)


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    rows = ["path,label,split"]
    for split, number in (("train", 2), ("test", 1), ("sketch", 1)):
        for colour in ("blue", "red"):
            for index in range(number):
                name = f"{split}/{colour}{index}.png"
                picture(tmp_path / "data" / name, colour, size=44 if split == "sketch" else 40)
                rows.append(f"{name},{colour},{split}")
    (tmp_path / "data" / "index.csv").write_text("\n".join(rows))
    return tmp_path / "data"


def test_splits_of_other_kinds_are_read_where_they_are_named(indexed: Path) -> None:
    with pytest.raises(InputError, match=r"'sketch', expected one of .* or a name that --test gives"):
        read_folder(indexed)
    folder = read_folder(indexed, others=["sketch"])
    assert (len(folder.train), len(folder.test)) == (4, 2)
    found = read_test_sets(folder, {}, size=32)["sketch"]
    assert found.labels == (0, 1)
    assert found.pictures[:, :, 5, 5].tolist() == [list(COLOURS["blue"]), list(COLOURS["red"])]
    with pytest.raises(InputError, match=r"no row whose split is 'cartoon'"):
        read_folder(indexed, others=["sketch", "cartoon"])


def test_folders_have_the_same_classes_by_name(indexed: Path, tmp_path: Path) -> None:
    folder = read_folder(indexed, others=["sketch"])
    for colour in ("red", "blue"):
        picture(tmp_path / "outdoors" / colour / "1.png", colour, size=48)
    found = read_test_sets(folder, {"outdoors": tmp_path / "outdoors"}, size=32)["outdoors"]
    colours = {
        folder.classes[label]: value[:, 0, 0].tolist()
        for value, label in zip(found.pictures, found.labels, strict=True)
    }
    assert colours == {"red": list(COLOURS["red"]), "blue": list(COLOURS["blue"])}
    assert found.pictures.dtype == torch.uint8
    picture(tmp_path / "outdoors" / "green" / "1.png", "green")
    with pytest.raises(InputError, match=r"expected classes of the training pictures .* found green"):
        read_test_sets(folder, {"outdoors": tmp_path / "outdoors"}, size=32)


def test_folders_without_an_index_have_no_such_splits(tmp_path: Path) -> None:
    for colour in ("red", "blue"):
        picture(tmp_path / colour / "1.png", colour)
    with pytest.raises(InputError, match=r"no index.csv whose splits could be sketch; give --test NAME=DIR"):
        read_folder(tmp_path, others=["sketch"])
