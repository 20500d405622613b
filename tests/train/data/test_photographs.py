from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from small_data import write_index, write_picture
from vitreg.errors import InputError
from vitreg.train.data import photographs as photos
from vitreg.train.data.dataset import Task
from vitreg.train.data.folder import read_folder
from vitreg.train.data.photographs import photo_task
from vitreg.train.data.transforms import box_mask, evaluation_transform

AUGMENT = "rand-m9-mstd0.5-inc1"


def task(root: Path, *, size: int = 32) -> Task:
    return photo_task(read_folder(root), name="birds", size=size, augment=AUGMENT)


def test_test_pictures_are_the_evaluation_transform_of_the_files(class_folders: Path) -> None:
    folder = read_folder(class_folders)
    made = task(class_folders)
    assert made.test.shape == (6, 3, 32, 32)
    for index, sample in enumerate(folder.test):
        expected, _ = evaluation_transform(32)(Image.open(sample.path), None)
        assert torch.equal(made.test[index], expected)
    assert made.test_masks is None


def test_same_seed_same_augmentation(class_folders: Path) -> None:
    first, second = task(class_folders), task(class_folders)
    assert torch.equal(first.train.picture(3, seed=9), second.train.picture(3, seed=9))
    assert not torch.equal(first.train.picture(3, seed=9), first.train.picture(3, seed=10))


def test_pictures_that_do_not_fit_in_memory_are_the_same(
    class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = task(class_folders, size=16)  # 40 pixels of height are reduced to 32
    monkeypatch.setattr(photos, "MEMORY_LIMIT", 0)
    read_again = task(class_folders, size=16)
    assert isinstance(read_again.train, photos.Photos)
    assert not read_again.train.kept
    for index in range(4):
        assert torch.equal(kept.train.picture(index, seed=5), read_again.train.picture(index, seed=5))


def test_box_becomes_a_mask(indexed: Path) -> None:
    made = task(indexed)
    assert made.test_masks is not None
    assert made.test_masks.shape == (4, 32, 32)
    # Pictures of 48 × 40 with the box 8–28 × 6–30: after Resize(37) and CenterCrop(32) 1.4 … 19.9 × 3 … 25.2.
    rows, columns = (torch.nonzero(made.test_masks[0].any(axis)).flatten() for axis in (1, 0))
    assert (int(rows[0]), int(rows[-1])) == pytest.approx((3, 25), abs=1)
    assert (int(columns[0]), int(columns[-1])) == pytest.approx((1, 20), abs=1)


def test_fingerprint_follows_the_content_not_the_place(class_folders: Path, tmp_path: Path) -> None:
    first = task(class_folders).fingerprint
    shutil.copytree(class_folders, tmp_path / "elsewhere")
    assert task(tmp_path / "elsewhere").fingerprint == first
    write_picture(tmp_path / "elsewhere" / "train" / "auk" / "2.png", seed=12345)
    assert task(tmp_path / "elsewhere").fingerprint != first


def test_fingerprint_follows_the_boxes(indexed: Path) -> None:
    first = task(indexed).fingerprint
    text = (indexed / "index.csv").read_text()
    (indexed / "index.csv").write_text(text.replace("8,6,20,24", "8,6,20,25", 1))
    assert task(indexed).fingerprint != first


def test_trimap_of_another_size_is_named(tmp_path: Path) -> None:
    rows = []
    for label in "01":
        for split in ("train", "test"):
            write_picture(tmp_path / f"{label}{split}.png", seed=1)
            Image.new("L", (9, 9)).save(tmp_path / f"{label}{split}_trimap.png")
            rows.append([f"{label}{split}.png", label, split, f"{label}{split}_trimap.png"])
    write_index(tmp_path, rows, ["path", "label", "split", "trimap"])
    with pytest.raises(InputError, match=r"0train_trimap\.png is \(9, 9\) pixels"):
        task(tmp_path)


def lay_down(path: Path, orientation: int | None) -> None:
    """Store a PNG again with an orientation, as a camera does that was held another way; the pixels stay."""
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    with Image.open(path) as picture:
        picture.save(path, exif=exif)


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_pictures_stand_upright_with_their_boxes(indexed: Path, orientation: int | None) -> None:
    folder = read_folder(indexed)
    for sample in (folder.train[1], folder.test[1]):
        lay_down(sample.path, orientation)
    made = task(indexed)

    # Pillow's own, and a box painted into a picture that is stored in the same way.
    upright = ImageOps.exif_transpose(Image.open(folder.test[1].path))
    painted = np.zeros((40, 48), np.uint8)
    painted[6:30, 8:28] = 1
    assert torch.equal(torch.from_numpy(painted).bool(), box_mask((8, 6, 20, 24), height=40, width=48))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation or 1
    Image.fromarray(painted).save(indexed / "mask.png", exif=exif)
    mask = np.asarray(ImageOps.exif_transpose(Image.open(indexed / "mask.png")))
    expected = evaluation_transform(32)(upright, torch.from_numpy(mask.astype(bool)))
    assert torch.equal(made.test[1], expected[0])
    assert made.test_masks is not None
    assert expected[1] is not None
    assert torch.equal(made.test_masks[1], expected[1])

    plain = photo_task(folder, name="birds", size=32, augment="none").train.picture(1, seed=0)
    stored = ImageOps.exif_transpose(Image.open(folder.train[1].path))
    assert torch.equal(plain, evaluation_transform(32)(stored, None)[0])


def test_trimap_is_turned_with_its_picture(tmp_path: Path) -> None:
    rows = []
    for label in "01":
        for split in ("train", "test"):
            write_picture(tmp_path / f"{label}{split}.png", seed=len(rows))
            lay_down(tmp_path / f"{label}{split}.png", 6)  # turned by 90 degrees clockwise: left is up
            trimap = np.full((40, 48), 2, np.uint8)
            trimap[:, :24] = 1
            Image.fromarray(trimap).save(tmp_path / f"{label}{split}_trimap.png")
            rows.append([f"{label}{split}.png", label, split, f"{label}{split}_trimap.png"])
    write_index(tmp_path, rows, ["path", "label", "split", "trimap"])
    masks = task(tmp_path).test_masks
    assert masks is not None
    assert masks[:, :15].all()
    assert not masks[:, 17:].any()


def test_fingerprint_is_of_content_classes_and_normalisation(class_folders: Path) -> None:
    # Stored runs are found by it; those from before pictures were turned, scaled or laid on white are others.
    folder = read_folder(class_folders)
    lay_down(folder.train[0].path, 1)
    lay_down(folder.train[1].path, 3)
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16).save(folder.train[2].path)
    Image.new("RGBA", (40, 40), (200, 0, 0, 100)).save(folder.test[0].path)
    notes = {folder.train[1].path: "turned\n", folder.train[2].path: "16 bits\n"}
    notes[folder.test[0].path] = "transparent\n"
    made = photo_task(folder, name="birds", size=32, augment=AUGMENT)
    digest = hashlib.sha256(repr((made.mean, made.std, folder.classes)).encode())
    for split, samples in (("train", folder.train), ("test", folder.test)):
        for sample in samples:
            content = hashlib.sha256(sample.path.read_bytes()).hexdigest()
            digest.update(f"{split} {sample.label} {content} None\n{notes.get(sample.path, '')}".encode())
    assert made.fingerprint == digest.hexdigest()
