"""index.csv: what is wrong is said with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from small_data import write_picture
from vitreg.errors import InputError
from vitreg.train.data.folder import read_folder

HEADER = "path,label,split,class\n"
ROWS = [
    f"{number}.png,{number % 2},{'test' if number > 7 else 'train'},{('cat', 'dog')[number % 2]}\n"
    for number in range(12)
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(12):
        write_picture(tmp_path / f"{number}.png", seed=number)
    (tmp_path / "index.csv").write_text(HEADER + "".join(ROWS))
    return tmp_path


def changed(root: Path, row: int, new: str) -> Path:
    (root / "index.csv").write_text(HEADER + "".join([*ROWS[:row], new + "\n", *ROWS[row + 1 :]]))
    return root


def test_as_it_is(root: Path) -> None:
    folder = read_folder(root)
    assert folder.classes == ("cat", "dog")
    assert (len(folder.train), len(folder.test)) == (8, 4)


def test_paths_of_windows(tmp_path: Path) -> None:
    for number, label in enumerate("aabbc"):
        write_picture(tmp_path / "images" / label / f"{number}.png", seed=number)
    lines = [rf"{label}\{number}.png,{label},train" for number, label in enumerate("aabb")]
    (tmp_path / "index.csv").write_text("path,label,split\n" + "\n".join([*lines, r"c\4.png,c,none"]))
    folder = read_folder(tmp_path, needs_test=False)
    assert folder.names_of(folder.train) == tuple(f"images/{c}/{n}.png" for n, c in enumerate("aabb"))
    assert folder.left_out == ("1 rows of no split",)


@pytest.mark.parametrize(
    ("row", "new", "message"),
    [
        (
            10,
            "10.png,0,test,horse",
            r"line 12, 10\.png: label 0 is the class 'horse' here, and 'cat' in .*line 2",
        ),
        (10, "10.png,0,,cat", r"line 12, 10\.png: split is '', expected one of"),
        (10, "10.png,0,tset,cat", r"line 12.*split is 'tset'"),
        (10, "10.png,0,test,cat,more", "line 12: expected 4 cells as the header has, found 5"),
        (10, "10.png,0,test", "line 12: expected 4 cells as the header has, found 3"),
        (10, "10.png,2,test,cat ", r"line 12.*class names 'cat' and 'cat ' differ only in spaces"),
        (10, "10.png,00,test,other", r"line 12.*labels '0' and '00' differ only"),
        (10, "./9.png,1,test,dog", r"line 12.*\./9\.png is listed twice, the first time in .*line 11"),
        (10, '10.png,0,test,"ca\0t', r"line 1\d"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(root: Path, row: int, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_folder(changed(root, row, new))


def test_forms_of_unicode(root: Path) -> None:
    index = (
        (HEADER + "".join(ROWS))
        .replace("dog", "caf\u00e9")
        .replace("11.png,1,test,caf\u00e9", "11.png,2,test,cafe\u0301")
    )
    (root / "index.csv").write_text(index)
    with pytest.raises(InputError, match=r"line 13.*'caf\\xe9' and 'cafe\\u0301'"):
        read_folder(root)


def test_splits_in_other_words_and_of_no_split(root: Path) -> None:
    text = (HEADER + "".join(ROWS)).replace("train", "Training").replace("11.png,1,test", "11.png,1,none")
    (root / "index.csv").write_text(text)
    folder = read_folder(root)
    assert (len(folder.train), len(folder.test)) == (8, 3)
    assert folder.left_out == ("1 rows of no split",)


def test_a_column_twice(root: Path) -> None:
    (root / "index.csv").write_text("path,label,split,label\n")
    with pytest.raises(InputError, match="the column 'label' twice"):
        read_folder(root)
    (root / "index.csv").write_bytes("path,label,split\n".encode("utf-16"))
    with pytest.raises(InputError, match="expected a CSV in UTF-8"):
        read_folder(root)


def test_pictures_that_no_row_lists_are_counted(indexed: Path) -> None:
    assert not read_folder(indexed).left_out
    for name in ("more/1.png", "2.png"):
        write_picture(indexed / name, seed=99)
    assert read_folder(indexed).left_out == ("2 pictures that index.csv does not list",)


def test_an_index_of_another_spelling_is_no_other_layout(indexed: Path) -> None:
    (indexed / "index.csv").rename(indexed / "Index.CSV")
    with pytest.raises(InputError, match=r"expected the list .* as index\.csv, found Index\.CSV; rename it"):
        read_folder(indexed)


def test_labels_of_any_length_are_sorted_as_numbers(indexed: Path) -> None:
    index, large = indexed / "index.csv", "9" * 400
    index.write_text(index.read_text().replace(",10,", f",{large},"))
    assert read_folder(indexed).classes == ("9 lives", "10 lives")


def test_what_is_no_utf8_is_told_without_a_line_zero(indexed: Path) -> None:
    (indexed / "index.csv").write_bytes("path,label,split\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"cannot read .*index\.csv: .*expected a CSV in UTF-8"):
        read_folder(indexed)
