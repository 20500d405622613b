from __future__ import annotations

import os
from pathlib import Path

import pytest

from small_data import write_index, write_picture
from vitreg.errors import InputError
from vitreg.train.data.folder import read_folder
from vitreg.train.data.samples import Folder
from vitreg.train.data.subset_lists import read_subset_list, write_subset_list

NAMES = ("auk", "booby", "crow")


@pytest.fixture
def folder(class_folders: Path) -> Folder:
    """12 training pictures: `train/auk/0.png` … `train/crow/3.png`."""
    return read_folder(class_folders)


def read(folder: Folder, tmp_path: Path, text: str) -> list[int]:
    path = tmp_path / "list.txt"
    path.write_text(text)
    return read_subset_list(path, folder)


def test_names_are_relative_to_the_root(folder: Folder) -> None:
    names = folder.names_of(folder.train)
    assert len(names) == 12
    assert names[5] == "train/booby/1.png"
    assert [folder.root / name for name in names] == [sample.path for sample in folder.train]


@pytest.mark.parametrize(
    "text",
    [
        "train/crow/3.png crow\ntrain/auk/1.png auk\n",
        "# ours\n\ntrain/crow/3.png 2\n  \ntrain/auk/1.png\t0\n",
        "train/crow/3.png,2\ntrain/auk/1.png,0\n",
        "train/crow/3.png, crow\n#train/auk/0.png, auk\ntrain/auk/1.png, auk",
        "path,label\ntrain/crow/3.png,3\ntrain/auk/1.png,1\n",
        "label,box,path\ncrow,,train/crow/3.png\nauk,,train/auk/1.png\n",
        "\ufeffPath,Label\r\ntrain/crow/3.png,crow\r\ntrain/auk/1.png,0\r\n",
        "crow/3.png 2\n./train/auk/1.png 0",
        "birds/train/crow/3.png 2\n/data/elsewhere/train/auk/1.png 0",
        "pictures\\crow\\3.png 2\ntrain\\auk\\1.png 0",
    ],
)
def test_forms(folder: Folder, tmp_path: Path, text: str) -> None:
    assert read(folder, tmp_path, text) == [1, 11]


def test_what_is_written_is_read_again(folder: Folder, tmp_path: Path) -> None:
    labels = [folder.classes[sample.label] for sample in folder.train]
    text = write_subset_list(folder.names_of(folder.train), labels, [0, 7, 10])
    assert text == "path,label\ntrain/auk/0.png,auk\ntrain/booby/3.png,booby\ntrain/crow/2.png,crow\n"
    assert read(folder, tmp_path, text) == [0, 7, 10]


def test_names_with_spaces_and_commas(tmp_path: Path) -> None:
    root = tmp_path / "indexed"
    rows = []
    for label, name in enumerate(("Grebe, Horned", "the #1 auk")):
        for number in range(4):
            write_picture(root / "images" / name / f"{label} {number}.png", seed=10 * label + number)
            split = "train" if number < 3 else "test"
            rows.append([f"{name}/{label} {number}.png", str(label), split, name])
    write_index(root, rows, ["path", "label", "split", "class"])
    folder = read_folder(root)
    labels = [folder.classes[sample.label] for sample in folder.train]
    text = write_subset_list(folder.names_of(folder.train), labels, [1, 5])
    assert read(folder, tmp_path, text) == [1, 5]
    assert read(folder, tmp_path, "the #1 auk/1 2.png 1\nimages/the #1 auk/1 0.png 1\n") == [3, 5]
    assert read(folder, tmp_path, '"Grebe, Horned/0 1.png","Grebe, Horned"\n0 0.png,0\n') == [0, 1]


def test_path_from_the_root_comes_before_an_end(tmp_path: Path) -> None:
    root = tmp_path / "indexed"
    rows = []
    for number, name in enumerate(("0.png", "a/0.png", "b/1.png", "b/2.png")):
        write_picture(root / name, seed=number)
        rows.append([name, str(number % 2), "train" if number < 2 else "test"])
    write_index(root, rows, ["path", "label", "split"])
    assert read(read_folder(root), tmp_path, "0.png 0\n") == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train/auk/1.png auk\ntrain/auk/9.png auk",
            r"line 2: train/auk/9\.png is no picture of the folder; did",
        ),
        (
            "#\ntrain/auk/1.png auk\n1.png auk",
            r"line 3: 1\.png may be train/auk/1\.png or train/booby/1\.png",
        ),
        ("train/auk/1.png auk\n\nauk/1.png 0", r"line 3: auk/1\.png is the picture of line 1 again"),
        ("test/auk/1.png auk", r"line 1: test/auk/1\.png is the test picture test/auk/1\.png"),
        (
            "train/auk/1.png crow",
            r"line 1: train/auk/1\.png has the label 'crow'; the folder's is 'auk', number 0",
        ),
        ("train/auk/1.png 2", "has the label '2'; the folder's is 'auk'"),
        ("train/auk/1.png 0\ntrain/crow/1.png 2\ntrain/booby/1.png 2", "line 3: .* has the label '2'"),
        ("train/auk/1.png 0\ntrain/crow/1.png 3", "line 2: .* has the label '3'"),
        ("train/auk/1.png raven", "has the label 'raven'"),
        ("train/auk/1.png -1", "has the label '-1'"),
        ("train/auk/1.png", r"line 1: 'train/auk/1\.png' is not PATH LABEL"),
        ("train/auk/1.png,auk\ntrain/auk/2.png", "line 2: .* is not PATH,LABEL"),
        ("path,label\ntrain/auk/1.png,", "line 2: .* is not path,label"),
        ("path,label\ntrain/auk/1.png,auk,7", "line 2: .* is not path,label"),
        ("# nothing\n", "names no picture"),
        ("path,label\n", "names no picture"),
    ],
)
def test_lines_that_are_refused(folder: Folder, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(folder, tmp_path, text)
    assert "list.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_list_that_cannot_be_read(folder: Folder, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match="cannot read the list"):
        read_subset_list(tmp_path / "list.txt", folder)


def test_names_of_any_bytes_and_formulas_are_found_again(class_folders: Path, tmp_path: Path) -> None:
    old = class_folders / "train" / "auk"
    odd = [os.fsdecode(name) for name in (b"caf\xe9.png", b"=1+1.png", b"-x.png")]
    for number, name in enumerate(odd):
        os.rename(old / f"{number}.png", old / name)
    os.rename(class_folders / "train" / "crow", class_folders / "train" / "=crow")
    os.rename(class_folders / "test" / "crow", class_folders / "test" / "=crow")
    folder = read_folder(class_folders)
    labels = [folder.classes[sample.label] for sample in folder.train]
    text = write_subset_list(folder.names_of(folder.train), labels, range(len(labels)))
    assert all(line[0] not in "=+-@" and ",=" not in line for line in text.splitlines())
    (tmp_path / "list.csv").write_bytes(text.encode(errors="surrogateescape"))
    assert read_subset_list(tmp_path / "list.csv", folder) == list(range(len(labels)))
