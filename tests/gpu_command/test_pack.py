"""What is packed is what the runs need, as the recipes read it, and small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gpu
from gpu_steps import pack as pack_module
from gpu_steps.pack import LIMIT
from vitreg.train.data.folder import read_folder
from vitreg.train.data.photographs import photo_task
from vitreg.train.data.samples import Folder

pytestmark = pytest.mark.slow

SIDES = (300, 240)


def picture(path: Path, *, seed: int, sides: tuple[int, int] = SIDES) -> str:
    """Write smooth colours, which JPEG keeps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(sides, Image.Resampling.BICUBIC).save(path)
    return path.name


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two of the data sets: one at five shots with trimaps, one whole."""
    for name in ("pets3", "grocery60"):
        rows = ["path,label,split,trimap"]
        for label in range(2):
            for number in range(40):
                split = "test" if number < 2 else "train"
                file = picture(
                    tmp_path / name / "images" / f"{label}_{number}.png", seed=100 * label + number
                )
                trimap = ""
                if name == "pets3":
                    trimap = f"{label}_{number}_trimap.png"
                    mask = np.full(SIDES[::-1], 2, dtype=np.uint8)
                    mask[60:180, 90:210] = 1
                    Image.fromarray(mask).save(tmp_path / name / trimap)
                rows.append(f"{file},{label},{split},{trimap}")
        (tmp_path / name / "index.csv").write_text("\n".join(rows))
    return tmp_path


def packed(data: Path, *more: str) -> Path:
    weights = data / "weights.bin"
    weights.write_bytes(b"w" * 1000)
    target = data / "pack"
    assert gpu.main(["--pack", str(target), "--data", str(data), "--weights", str(weights), *more]) == 0
    assert (target / "weights.safetensors").read_bytes() == b"w" * 1000
    return target


def folders(data: Path, target: Path, name: str) -> tuple[Folder, Folder]:
    return read_folder(data / name), read_folder(target / name)


def test_it_is_read_as_the_recipes_read_pictures(data: Path) -> None:
    target = packed(data)
    before, after = folders(data, target, "grocery60")
    assert after.classes == before.classes
    assert len(after.train) == len(before.train) == 76
    assert [sample.label for sample in after.test] == [sample.label for sample in before.test]
    before, after = folders(data, target, "pets3")
    assert 10 <= len(after.train) < len(before.train)  # what five seeds draw
    assert all(sample.trimap is None for sample in after.train)


def test_the_evaluation_sees_the_same_pictures_and_objects(data: Path) -> None:
    before, after = folders(data, packed(data), "pets3")
    theirs, ours = (photo_task(folder, name="x", size=224, augment="none") for folder in (before, after))
    far = (ours.test.float() - theirs.test.float()).abs()
    assert far.mean() < 4  # of 255: JPEG, and one resampling more
    assert ours.test_masks is not None
    assert theirs.test_masks is not None
    assert (ours.test_masks != theirs.test_masks).float().mean() < 0.02
    for sample in after.train:
        with Image.open(sample.path) as opened:
            assert min(opened.size) == 224


def test_the_quality_is_the_best_that_fits(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = packed(data)
    assert sum(file.stat().st_size for file in large.rglob("*") if file.is_file()) <= LIMIT
    files = list(large.rglob("*.jpg"))
    bytes_large = sum(file.stat().st_size for file in files)
    monkeypatch.setattr(pack_module, "LIMIT", round(0.8 * bytes_large) + len(files) * 300)
    large.rename(data / "large")
    small = packed(data)
    assert sum(file.stat().st_size for file in small.rglob("*.jpg")) < bytes_large
    monkeypatch.setattr(pack_module, "LIMIT", 1000)
    small.rename(data / "small")
    with pytest.raises(SystemExit, match="at any quality"):
        packed(data)


def test_a_folder_that_holds_something_is_refused(data: Path) -> None:
    (data / "pack").mkdir()
    (data / "pack" / "mine.txt").touch()
    with pytest.raises(SystemExit, match="expected an empty folder for --pack"):
        packed(data)


def test_a_folder_without_the_data_sets_is_refused(tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    with pytest.raises(SystemExit, match="expected one of cub36, cars98, grocery60, pets3"):
        packed(tmp_path)
