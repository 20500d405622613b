"""The same picture twice, and what cannot be read: told at once, before anything is trained."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from small_data import write_picture
from vitreg.errors import InputError
from vitreg.train.data.dataset import Task
from vitreg.train.data.folder import read_folder
from vitreg.train.data.photographs import photo_task
from vitreg.train.data.samples import Folder, file_digests
from vitreg.train.data.subset import split
from vitreg.train.data.transforms import LONGEST, evaluation_transform


def task(folder: Folder) -> Task:
    return photo_task(folder, name="birds", size=32, augment="none")


def test_across_splits_it_is_refused_unless_the_owner_split_it_so(class_folders: Path) -> None:
    shutil.copy(class_folders / "train/auk/0.png", class_folders / "test/auk/again.png")
    folder = read_folder(class_folders)
    with pytest.raises(InputError, match=r"train/auk/0\.png and test/auk/again\.png; remove one"):
        task(folder)
    (said,) = task(replace(folder, is_official=True)).notes
    assert "1 picture is in training and test" in said


def test_within_a_split_it_is_told(class_folders: Path) -> None:
    assert task(read_folder(class_folders)).notes == ()
    shutil.copy(class_folders / "train/auk/0.png", class_folders / "train/crow/again.png")
    shutil.copy(class_folders / "train/auk/1.png", class_folders / "train/auk/again.png")
    notes = task(read_folder(class_folders)).notes
    assert notes == (
        "1 picture is in two classes, of which one is wrong: train/auk/0.png and train/crow/again.png",
        "1 picture is there more than once: train/auk/1.png and train/auk/again.png",
    )


def test_copies_are_never_held_out_from_their_originals(class_folders: Path) -> None:
    for name in ("auk", "booby"):
        for number in range(3):
            place = class_folders / "train" / name
            shutil.copy(place / f"{number}.png", place / f"c{number}.png")
    samples = read_folder(class_folders).train
    labels, digests = [sample.label for sample in samples], file_digests(samples)
    content = [sample.path.read_bytes() for sample in samples]
    for seed in range(20):
        kept, out = split(range(len(samples)), labels, 0.5, seed=seed, classes="abc", digests=digests)
        assert not {content[index] for index in kept} & {content[index] for index in out}
        assert {labels[index] for index in out} == {labels[index] for index in kept} == {0, 1, 2}
        assert len({content[index] for index in (*kept, *out)}) == len(set(content))


def test_without_copies_nothing_changes(class_folders: Path) -> None:
    samples = read_folder(class_folders).train
    labels = [sample.label for sample in samples]
    plain = split(range(12), labels, 0.4, seed=3, classes="abc")
    assert split(range(12), labels, 0.4, seed=3, classes="abc", digests=file_digests(samples)) == plain


def test_all_pictures_that_cannot_be_read_are_named_at_once(class_folders: Path) -> None:
    (class_folders / "train/auk/1.png").write_bytes(b"")
    (class_folders / "train/crow/3.png").write_bytes(b"<html>")
    cut = class_folders / "test/booby/0.png"
    cut.write_bytes(cut.read_bytes()[:300])
    with pytest.raises(InputError) as caught:
        task(read_folder(class_folders))
    assert str(caught.value).startswith("3 pictures cannot be used: ")
    for text in ("auk/1.png: the file is empty", "crow/3.png: expected JPEG", "booby/0.png: it is not whole"):
        assert text in str(caught.value)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 5_000)])
def test_a_very_long_picture_takes_little_memory(tmp_path: Path, size: tuple[int, int]) -> None:
    long = Image.effect_noise(size, 90).convert("RGB")
    mask = torch.ones(size[1], size[0], dtype=torch.bool)
    picture, seen = evaluation_transform(32)(long, mask)
    assert picture.shape == (3, 32, 32)
    assert seen is not None
    assert seen.all()
    short = Image.effect_noise((2 * LONGEST, 2), 90).convert("RGB")
    whole, _ = evaluation_transform(32)(short, None)  # the longest that is resized as a whole
    wider = Image.new("RGB", (2 * LONGEST + 20, 2))
    wider.paste(short, (10, 0))
    assert torch.equal(evaluation_transform(32)(wider, None)[0], whole)


def test_long_pictures_are_trained_on(class_folders: Path) -> None:
    write_picture(class_folders / "train/auk/long.png", seed=1, width=1, height=20_000)
    made = task(read_folder(class_folders))
    assert made.train.picture(4, seed=0).shape == (3, 32, 32)
