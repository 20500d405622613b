from __future__ import annotations

from pathlib import Path

import pytest

from small_data import write_index, write_picture
from vitreg.errors import InputError
from vitreg.train.data.folder import read_folder


def test_class_folders_give_sorted_classes_and_all_pictures(class_folders: Path) -> None:
    folder = read_folder(class_folders)
    assert folder.classes == ("auk", "booby", "crow")
    assert [sample.label for sample in folder.train] == [0] * 4 + [1] * 4 + [2] * 4
    assert [sample.path.parent.name for sample in folder.test] == ["auk"] * 2 + ["booby"] * 2 + ["crow"] * 2
    assert all(sample.path.parent.parent.name == "train" for sample in folder.train)


def test_val_is_read_where_there_is_no_test(class_folders: Path) -> None:
    (class_folders / "test").rename(class_folders / "val")
    assert len(read_folder(class_folders).test) == 6


def test_index_sorts_numeric_labels_as_numbers_and_reads_boxes(indexed: Path) -> None:
    folder = read_folder(indexed)
    assert folder.classes == ("9 lives", "10 lives")  # as text, 10 would come before 9
    assert (len(folder.train), len(folder.test)) == (8, 4)
    assert {sample.box for sample in folder.train} == {(8.0, 6.0, 20.0, 24.0)}
    assert all(sample.path.is_file() for sample in folder.train + folder.test)


def test_index_reads_trimaps_trainval_and_passes_over_what_is_in_no_split(tmp_path: Path) -> None:
    rows = []
    for number, split in enumerate(("trainval", "train", "test", "val", "unlisted")):
        for breed in ("pug", "lynx"):
            write_picture(tmp_path / breed / f"{number}.png", seed=number)
            write_picture(tmp_path / "trimaps" / breed / f"{number}.png", seed=number)
            rows.append([f"{breed}/{number}.png", f"trimaps/{breed}/{number}.png", breed, breed, split])
    write_index(tmp_path, rows, ["image", "trimap", "breed", "label", "split"])
    folder = read_folder(tmp_path)
    assert folder.classes == ("lynx", "pug")
    assert (len(folder.train), len(folder.test)) == (4, 2)  # val is left alone beside test
    assert folder.train[0].trimap is not None
    assert folder.train[0].trimap.parent.parent.name == "trimaps"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, "nowhere.png", r"expected a path from .* there is no file nowhere\.png"),
        (2, "tset", "split is 'tset', expected one of train"),
        (1, "", "no label or no path"),
        (4, "left", "the box needs four numbers"),
        (6, "0", "has no area"),
    ],
)
def test_unusable_row_is_named(indexed: Path, column: int, value: str, message: str) -> None:
    lines = (indexed / "index.csv").read_text().splitlines()
    cells = lines[1].split(",")
    cells[column] = value
    (indexed / "index.csv").write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]))
    with pytest.raises(InputError, match=message):
        read_folder(indexed)


def test_picture_listed_twice_is_refused(indexed: Path) -> None:
    text = (indexed / "index.csv").read_text()
    (indexed / "index.csv").write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(InputError, match="listed twice"):
        read_folder(indexed)


def test_class_of_the_test_split_alone_is_named(class_folders: Path) -> None:
    write_picture(class_folders / "test" / "dodo" / "0.png", seed=0)
    with pytest.raises(InputError, match="no training picture for class dodo"):
        read_folder(class_folders)


def test_two_labels_of_one_name_are_refused(indexed: Path) -> None:
    index = indexed / "index.csv"
    index.write_text(index.read_text().replace(",10 lives,", ",9 lives,"))
    with pytest.raises(InputError, match="two labels have the class name 9 lives"):
        read_folder(indexed)
