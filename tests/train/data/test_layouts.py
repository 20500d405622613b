"""Folders of classes and splits: what they mean, what is said of them, and what may mean another thing."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from small_data import write_picture
from vitreg.errors import InputError
from vitreg.train.data.folder import read_folder
from vitreg.train.data.layouts.names import role_of, split_of, twins
from vitreg.train.data.samples import Folder, describe_folder


def put(root: Path, *folders: str, count: int = 2) -> Path:
    """Write pictures into folders, all of them different."""
    for folder in folders:
        for number in range(count):
            write_picture(root / folder / f"{number}.png", seed=hash((folder, number)) % 2**32)
    return root


def read(root: Path, **options: object) -> Folder:
    return read_folder(root, needs_test=False, **options)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("training", "validation"),
        ("TRAIN", "valid"),
        ("train_images", "TestSet"),
        ("seg_train", "seg_test"),
    ],
)
def test_splits_in_other_words(tmp_path: Path, train: str, test: str) -> None:
    put(tmp_path, *map("/".join, itertools.product((train, test), ("ant", "bee"))))
    folder = read(tmp_path)
    assert folder.classes == ("ant", "bee")
    assert {sample.path.relative_to(tmp_path).parts[0] for sample in folder.test} == {test}
    assert folder.test_name == f"{test}/"
    assert read_folder(tmp_path) == folder


def test_names_of_splits() -> None:
    assert [role_of(name) for name in ("train2017", "Validation", "test-data", "my_train")] == [
        "train",
        "val",
        "test",
        None,
    ]
    assert [role_of(name) for name in ("test tube", "trainer", "bus", "steam train", "set")] == [None] * 5
    assert [split_of(text) for text in (" Train", "valid", "tset", "")] == ["train", "val", None, None]


def test_validation_beside_test_is_left_out_and_said(tmp_path: Path) -> None:
    put(tmp_path, *map("/".join, itertools.product(("train", "test", "valid"), ("ant", "bee"))), "extra")
    folder = read(tmp_path)
    assert len(folder.test) == 4
    assert folder.left_out == ("extra/ (2 pictures)", "valid/ (4 pictures)")
    assert describe_folder(folder, "birds") == [
        "birds: 2 classes (ant, bee), 4 training pictures in train/ (2 per class), 4 test pictures in test/ "
        "(2 per class); left out: extra/ (2 pictures); valid/ (4 pictures)"
    ]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert read(put(tmp_path, "train", "bus", "car")).classes == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/ant", "train/bee", "Training/ant", "Training/bee"), "the same split by their names"),
        (("treino/ant", "treino/bee", "teste/ant", "teste/bee"), "teste/ and treino/ both hold ant, bee"),
        (
            ("train/ant", "train/bee", "teste/ant", "teste/bee"),
            "found ant, bee in teste/.*call it test/",
        ),
        (("images", "masks"), "parts of a data set by their names"),
        (("test/ant", "test/bee"), "test alone cannot be trained on"),
        (("train/ant", "train/bee", "test"), "2 pictures outside the class folders; take it out, and have"),
        (("train", "test"), "expected a folder of pictures for each class"),
        (("cat", "cat "), "differ only in spaces, hyphens, case, Unicode form or zeros"),
        (("Cat", "cat"), "differ only in"),
        (("train/caf\u00e9", "train/x", "test/cafe\u0301", "test/x"), r"'caf\\xe9' and 'cafe\\u0301' differ"),
        (("ant",), "found only ant"),
        (("all/train/ant", "all/test/ant"), "found only all; if the classes are in it, give .*all"),
        (
            ("ant/train", "ant/test", "bee/train", "bee/test"),
            "hold splits.*make ant/test test/ant",
        ),
    ],
)
def test_what_may_mean_another_thing_is_refused(
    tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(put(tmp_path, *folders))


def test_a_readers_error_is_the_last_word(tmp_path: Path) -> None:
    put(tmp_path, "images", "annotations/trimaps")
    lines = "Abyssinian_1 1 1 1\nbeagle_1 2 1 1\n"
    for split in ("trainval", "test"):
        (tmp_path / "annotations" / f"{split}.txt").write_text(lines)
    with pytest.raises(InputError, match="Oxford-IIIT Pet"):
        read(tmp_path)
    write_picture(tmp_path / "train" / "ant" / "1.png", seed=1)
    (tmp_path / "index.csv").write_text("path,label\n")
    with pytest.raises(InputError, match="needs columns"):
        read(tmp_path)


def test_what_is_no_class(tmp_path: Path) -> None:
    put(tmp_path, "ant", "bee", ".ipynb_checkpoints", "@eaDir", "ant/.ipynb_checkpoints")
    write_picture(tmp_path / "runs" / "finetune-x" / "confusion.png", seed=1)
    (tmp_path / "runs" / "finetune-x" / "report.json").touch()
    write_picture(tmp_path / "loose.png", seed=2)
    for number in range(3):
        (tmp_path / "ant" / f"{number}.CR2").touch()
    folder = read(tmp_path)
    assert folder.classes == ("ant", "bee")
    assert len(folder.train) == 4
    (said,) = describe_folder(folder, "x")
    for text in ("3 *.cr2", "1 folders of results", "1 pictures outside", "3 hidden files or folders"):
        assert text in said


def test_the_output_is_no_class_before_anything_is_in_it(tmp_path: Path) -> None:
    put(tmp_path, "ant", "bee")
    (tmp_path / "runs" / "finetune").mkdir(parents=True)
    assert read(tmp_path, but_not=tmp_path / "runs" / "finetune").classes == ("ant", "bee")
    with pytest.raises(InputError, match="no picture in runs"):
        read(tmp_path)


def test_the_order_is_that_of_image_folder(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    put(tmp_path, "b/z", "b", "a", "b/a")
    found = read(tmp_path)
    assert [(str(s.path), s.label) for s in found.train] == ImageFolder(str(tmp_path)).samples


def test_a_link_to_itself_is_no_end(tmp_path: Path) -> None:
    root = put(tmp_path, "ant", "bee")
    for name in ("loop.png", "ant/loop.png"):
        (root / name).symlink_to("loop.png")
    assert read(root).classes == ("ant", "bee")


def test_imbalance_is_said(tmp_path: Path) -> None:
    put(tmp_path, "ant", count=20)
    put(tmp_path, "bee", count=2)
    _, said = describe_folder(read(tmp_path), "x")
    assert "20 training pictures of ant, 2 of bee" in said
    assert "91 %" in said
    for number in range(1, 11):
        os.remove(tmp_path / "ant" / f"{number}.png")
    assert len(describe_folder(read(tmp_path), "x")) == 1


def test_twins() -> None:
    assert twins(["cat", "dog"]) is None
    assert twins(["1", "2", "01"]) == ("1", "01")
    assert twins(["a b", "A  b"]) == ("a b", "A  b")
    assert twins(["great auk", "great_auk"]) == ("great auk", "great_auk")
    assert twins(["cat", "cat\u200b"]) == ("cat", "cat\u200b")
    assert twins(["1", "1.0"]) == ("1", "1.0")
    assert twins(["1", "-1", "1.5", "a-1", "a1"]) is None
    assert twins(["cat", "cat"]) is None


def test_a_folder_is_one_class_and_no_class_of_its_own_parent(class_folders: Path) -> None:
    root = class_folders / "train"
    (root / "self").symlink_to(root)
    (root / "gone").symlink_to(root / "nowhere")
    (root / "labels.csv").touch()
    folder = read_folder(root, needs_test=False)
    assert folder.classes == ("auk", "booby", "crow")
    assert folder.left_out == ("1 links to nowhere, 1 *.csv, 1 links to a folder above",)
    (root / "owl").symlink_to(root / "auk")
    with pytest.raises(InputError, match="folders auk and owl are one folder by a link; remove it"):
        read_folder(root, needs_test=False)
