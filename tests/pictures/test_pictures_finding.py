"""Which files are pictures of a folder: regular, each once, and none that a tool or vitreg left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from vitreg.errors import InputError
from vitreg.pictures import finding
from vitreg.pictures.finding import find_pictures, is_result, pictures_below


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path)
    return path


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in pictures_below(folder).pictures]


@pytest.mark.parametrize(
    "name",
    [
        *(".ipynb_checkpoints/1-checkpoint.png", "@eaDir/1.png/SYNO.png", "__MACOSX/._1.png", ".git/1.png"),
        *("Thumbnails/1.png", "wandb/run/1.png", "node_modules/1.png", "CVS/1.png"),
    ],
)
def test_what_is_hidden_or_a_tools_is_left_out_and_counted(tmp_path: Path, name: str) -> None:
    put(tmp_path / "1.png")
    put(tmp_path / name)
    put(tmp_path / "._1.jpg")
    assert names(tmp_path) == ["1.png"]
    assert pictures_below(tmp_path).left_out == {"hidden files or folders of tools": 2}


def test_loops_and_doubles_are_read_once(tmp_path: Path) -> None:
    a, b = tmp_path / "data" / "a", tmp_path / "data" / "b"
    put(a / "1.png")
    put(b / "2.png")
    (a / "again").symlink_to(a)
    (a / "up").symlink_to(tmp_path)
    (a / "other").symlink_to(b)
    (b / "back").symlink_to(a)
    (a / "same.png").symlink_to(a / "1.png")
    os.link(a / "1.png", a / "hard.png")
    assert names(a) == ["1.png", "other/2.png"]
    left_out = pictures_below(a).left_out
    assert left_out["links to the same files"] == 2
    assert left_out["links to a folder above"] == 3  # `again`, `up` and, by way of `other`, `back`


def test_special_files_other_endings_and_lost_links(tmp_path: Path) -> None:
    put(tmp_path / "1.JPG")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
    for name in ("a.cr2", "b.CR2", "notes"):
        (tmp_path / name).touch()
    found = pictures_below(tmp_path)
    assert [path.name for path in found.pictures] == ["1.JPG", "lost.png"]  # whoever opens it says it is lost
    assert found.left_out == {"special files": 2, "*.cr2": 2, "files without an ending": 1}


def test_what_reads_a_picture_that_is_left_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "suffixes", lambda: {".jpg"})
    for name in ("1.jpg", "2.HEIC", "3.heic"):
        (tmp_path / name).touch()
    assert pictures_below(tmp_path).left_out == {"*.heic, which pip install pillow-heif reads": 2}


def test_earlier_results_are_no_pictures(tmp_path: Path) -> None:
    put(tmp_path / "1.png")
    for name in ("runs/finetune/confusion.png", "runs/finetune/attention.png", "attention.png"):
        put(tmp_path / name)
    (tmp_path / "runs/finetune/report.json").touch()
    (tmp_path / "predictions.csv").touch()
    assert names(tmp_path) == ["1.png"]
    assert is_result(tmp_path / "runs")
    assert not is_result(tmp_path)
    put(tmp_path / "runs/finetune/cat.png")
    assert not is_result(tmp_path / "runs")
    assert "runs/finetune/cat.png" in names(tmp_path)


def test_a_folder_can_be_left_out(tmp_path: Path) -> None:
    put(tmp_path / "1.png")
    put(tmp_path / "out" / "2.png")
    assert len(pictures_below(tmp_path, but_not=tmp_path / "out").pictures) == 1


def test_places_are_found_once_and_in_order(tmp_path: Path) -> None:
    paths = [put(tmp_path / name) for name in ("b/c/1.png", "a/2.JPG", "a/1.png")]
    (tmp_path / "a" / "notes.txt").touch()
    assert find_pictures([tmp_path, paths[0]]).pictures == sorted(paths)
    assert find_pictures([paths[0], tmp_path]).pictures == [paths[0], *sorted(paths)[:2]]
    with pytest.raises(InputError, match="there is no picture or folder"):
        find_pictures([tmp_path / ("x" * 300)])
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no picture in .*looked for .*\.jpg.*left out: 1 hidden"):
        find_pictures([tmp_path / "empty"])
