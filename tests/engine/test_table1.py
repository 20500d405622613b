from __future__ import annotations

import csv
from pathlib import Path

import pytest

import engine.results.dataset_counts
import vitreg.train.data.official
from engine.results.dataset_counts import read_paper_counts
from official_data import make_aircraft, make_cub, make_pet, make_voc
from table1 import main as table1
from vitreg.train.data.official import LAYOUTS


def run(*arguments: str | Path) -> int:
    return table1([str(argument) for argument in arguments])


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "table1.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_paper_s_counts() -> None:
    assert read_paper_counts() == {
        "cub": (200, 5994, 5794),
        "cars": (196, 8144, 8041),
        "aircraft": (100, 6667, 3333),
        "dogs": (120, 12000, 8580),
        "pet": (37, 3680, 3669),
    }


def test_without_data_it_says_what_to_put_where(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run() == 2
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert len(lines) == len(LAYOUTS) == 6
    for line, layout in zip(lines, LAYOUTS, strict=True):
        assert line.startswith(f"--data {layout.name}=DIR ")
        assert layout.address in line
        assert layout.files in line
        assert all(archive.name in line for archive in layout.archives)
    assert captured.err.startswith("error: no data")
    assert not list(tmp_path.iterdir())


def test_counts_beside_the_paper_s(
    tmp_path: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [
        f"CUB={make_cub(tmp_path)}",
        f"pet={make_pet(tmp_path)}",
        f"VOC={make_voc(tmp_path)}",
        class_folders,
    ]
    assert run("--data", *data, "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    cub, pet, birds = rows(tmp_path / "out")
    assert [cub[name] for name in ("data", "classes", "train", "test", "objects")] == [
        "CUB",
        "2",
        "8",
        "4",
        "box",
    ]
    # Of 4 pictures a class: round(0.6), round(1.2), 2 and 4.
    assert [cub[f"at_{rate}"] for rate in (15, 30, 50, 100)] == ["2", "2", "4", "8"]
    assert [cub[f"paper_{name}"] for name in ("classes", "train", "test")] == ["200", "5994", "5794"]
    assert (pet["data"], pet["objects"], pet["paper_train"]) == ("pet", "trimap", "3680")
    assert (birds["data"], birds["train"], birds["test"], birds["paper_train"]) == ("birds", "12", "6", "")
    assert "CUB: 8 training pictures, 5994 in the paper" in shown
    assert "CUB: 2 classes, 200 in the paper" in shown
    assert "pet: 4 test pictures, 3669 in the paper" in shown
    assert "birds:" not in shown
    assert f"VOC: 3 pictures of {vitreg.train.data.official.VOC.title} val with masks" in shown
    for name in ("Cars", "Aircraft", "Dogs"):
        assert f"{name} is not given and left out. " in shown
    written = (tmp_path / "out" / "table1.md").read_text()
    assert "| CUB | 2 | 8 | 4 | 2 | 2 | 4 | 8 | box | 200 | 5994 | 5794 |" in written
    assert "- CUB: 8 training pictures, 5994 in the paper" in written
    assert "- Cars is not given and left out." in written


def test_agreement_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine.results.dataset_counts, "read_paper_counts", lambda: {"cub": (2, 8, 4)})
    assert run("--data", f"CUB={make_cub(tmp_path)}", "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "as in the paper: CUB" in shown
    assert "CUB: " not in shown


def test_subset_that_leaves_a_class_empty_is_a_dash(
    tmp_path: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (class_folders / "train" / "auk").iterdir():
        if path.stem != "0":
            path.unlink()
    assert run("--data", class_folders, "--out", tmp_path / "out") == 0
    (birds,) = rows(tmp_path / "out")
    # round(0.5) is 0
    assert [birds[f"at_{rate}"] for rate in (15, 30, 50, 100)] == ["", "", "", "9"]
    assert "–: a class would be left without a picture" in capsys.readouterr().out


def test_unusable_one_is_left_out_and_the_others_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [f"CUB={make_cub(tmp_path)}", f"Aircraft={make_aircraft(tmp_path)}", f"Pet={tmp_path / 'nowhere'}"]
    (tmp_path / "fgvc-aircraft-2013b" / "data" / "variants.txt").unlink()
    assert run("--data", *data, "--out", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert [row["data"] for row in rows(tmp_path / "out")] == ["CUB"]
    assert "Aircraft is left out: " in captured.out
    assert "variants.txt is missing" in captured.out
    assert "Pet is left out: cannot read the data folder" in captured.out
    assert captured.err == "error: not usable, as said above: Aircraft, Pet\n"


def test_nothing_usable_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data", f"CUB={tmp_path}", "--out", tmp_path / "out") == 2
    assert "CUB-200-2011: a folder with images/" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_download_is_for_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, Path]] = []
    monkeypatch.setattr(
        "engine.scripts.counting.download_archives",
        lambda layout, place, say: asked.append((layout.name, place)),
    )
    data = [f"CUB={make_cub(tmp_path)}", f"Pet={tmp_path / 'pets'}"]
    assert run("--data", *data, "--download", "--out", tmp_path / "out") == 2  # Pet did not come
    assert asked == [("Pet", tmp_path / "pets")]
