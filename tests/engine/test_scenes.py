from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data.scenes import Scenes, task_scenes, voc_scenes
from official_data import BOX, make_voc
from small_data import write_picture
from vitreg.errors import InputError
from vitreg.train.data.dataset import Task
from vitreg.train.data.official.voc import MaskedPicture, read_voc


def write_classes(path: Path, numbers: np.ndarray) -> Path:
    picture = Image.fromarray(numbers).convert("P")
    picture.putdata(numbers.ravel().tolist())  # the values are palette indices
    picture.save(path)
    return path


def one_picture(folder: Path, numbers: np.ndarray, colours: np.ndarray | None = None) -> MaskedPicture:
    if colours is None:
        colours = np.zeros((*numbers.shape, 3), dtype=np.uint8)
    Image.fromarray(colours).save(folder / "a.jpg", quality=95, subsampling=0)
    return MaskedPicture(folder / "a.jpg", write_classes(folder / "a.png", numbers), folder / "a.png")


def test_official_layout(tmp_path: Path) -> None:
    steps = []
    scenes = voc_scenes(
        read_voc(make_voc(tmp_path)), size=32, on_picture=lambda *numbers: steps.append(numbers)
    )
    assert (scenes.name, scenes.size) == ("VOC", 32)
    assert scenes.pictures.shape == (3, 3, 32, 32)
    assert scenes.pictures.dtype == scenes.objects.dtype == torch.uint8
    assert set(scenes.objects.unique().tolist()) == {0, 15, 255}
    left, top, width, height = BOX
    y, x = torch.meshgrid(
        (torch.arange(32) + 0.5) * 40 / 32, (torch.arange(32) + 0.5) * 48 / 32, indexing="ij"
    )
    x, y = x.floor(), y.floor()  # the owner's pixel below the centre of each of ours
    on_object = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)
    around = (x >= left - 1) & (x <= left + width) & (y >= top - 1) & (y <= top + height)
    assert (scenes.masks == on_object).all()
    assert (scenes.is_decided == on_object | ~around).all()
    assert not (scenes.masks & ~scenes.is_decided).any()
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_mask_stays_on_its_object_in_a_picture_that_is_no_square(tmp_path: Path) -> None:
    numbers = np.zeros((40, 96), dtype=np.uint8)
    numbers[10:30, 12:60] = 7  # in a square of 32 px: rows 8 to 23, columns 4 to 19
    colours = np.repeat(255 * (numbers == 7).astype(np.uint8)[:, :, None], 3, axis=2)
    scenes = voc_scenes([one_picture(tmp_path, numbers, colours)], size=32)
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[8:24, 4:20] = True
    assert torch.equal(scenes.masks[0], expected)
    for channel in scenes.pictures[0]:
        assert torch.equal(channel > 127, expected)


def test_at_its_own_size_a_mask_is_the_owner_s(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).choice([0, 3, 20, 255], size=(24, 24)).astype(np.uint8)
    one = one_picture(tmp_path, numbers)
    scenes = voc_scenes([one], size=24)
    assert torch.equal(scenes.objects[0], torch.from_numpy(numbers))
    assert torch.equal(scenes.is_decided[0], torch.from_numpy(numbers != 255))
    assert torch.equal(scenes.masks[0], torch.from_numpy((numbers != 255) & (numbers != 0)))


def test_picture_is_blended(tmp_path: Path) -> None:
    numbers = np.zeros((96, 96), dtype=np.uint8)
    lines = np.zeros((96, 96, 3), dtype=np.uint8)
    lines[:, ::2] = 255
    scenes = voc_scenes([one_picture(tmp_path, numbers, lines)], size=16)
    assert 90 < scenes.pictures.min() <= scenes.pictures.max() < 165


def test_classes_are_not_blended(tmp_path: Path) -> None:
    numbers = np.full((50, 30), 4, dtype=np.uint8)
    numbers[:, 15:] = 20
    scenes = voc_scenes([one_picture(tmp_path, numbers)], size=21)
    assert set(scenes.objects.unique().tolist()) == {4, 20}


def test_fingerprint_is_what_was_read(tmp_path: Path) -> None:
    numbers = np.zeros((20, 20), dtype=np.uint8)
    one = one_picture(tmp_path, numbers)
    first = voc_scenes([one], size=16)
    assert voc_scenes([one], size=16).fingerprint == first.fingerprint
    others = [voc_scenes([one], size=17), voc_scenes([one], size=16, mean=(0.5, 0.5, 0.5))]
    others += [voc_scenes([one, one], size=16)]
    numbers[:4, :4] = 1
    write_classes(one.classes, numbers)
    others += [voc_scenes([one], size=16)]
    write_picture(one.path, seed=0, width=20, height=20)
    others += [voc_scenes([one], size=16)]
    assert len({first.fingerprint, *(scenes.fingerprint for scenes in others)}) == 6


def other_size(one: MaskedPicture) -> None:
    write_picture(one.path, seed=0, width=21, height=20)


def with_colours(one: MaskedPicture) -> None:
    write_picture(one.classes, seed=0, width=20, height=20)


def with_class_21(one: MaskedPicture) -> None:
    write_classes(one.classes, np.full((20, 20), 21, dtype=np.uint8))


def torn(one: MaskedPicture) -> None:
    one.path.write_bytes(one.path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (other_size, r"a\.png: expected 20 × 21 pixels as in its picture, found \(20, 20\)"),
        (with_colours, r"a\.png: expected a mask with a palette, found 3 dimensions"),
        (with_class_21, r"a\.png: expected classes up to 20 and 255, found 21"),
        (torn, r"cannot read the picture .*a\.jpg: it is not whole"),
    ],
)
def test_what_cannot_be_used(spoil: Callable[[MaskedPicture], None], said: str, tmp_path: Path) -> None:
    one = one_picture(tmp_path, np.zeros((20, 20), dtype=np.uint8))
    spoil(one)
    with pytest.raises(InputError, match=said):
        voc_scenes([one], size=16)


def test_no_pictures() -> None:
    with pytest.raises(InputError, match="expected pictures of PASCAL VOC 2012, found none"):
        voc_scenes([], size=16)


def small_task(masks: torch.Tensor | None) -> Task:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (2, 3, 8, 8), generator=generator).to(torch.uint8)
    return Task(
        name="birds",
        classes=("auk", "booby"),
        fingerprint="f",
        size=8,
        train=None,  # type: ignore[arg-type]
        train_labels=(),
        test=pictures,
        test_labels=(0, 1),
        test_masks=masks,
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
    )


def test_scenes_of_a_task() -> None:
    masks = torch.rand(2, 8, 8) < 0.5
    task = small_task(masks)
    scenes = task_scenes(task)
    assert (scenes.name, scenes.fingerprint, scenes.size) == ("birds", "f", 8)
    assert torch.equal(scenes.masks, masks)
    assert scenes.is_decided.all()
    assert torch.equal(scenes.normalise(scenes.pictures), task.normalise(task.test))
    some = scenes.at([1])
    assert torch.equal(some.pictures, task.test[1:])
    assert torch.equal(some.masks, masks[1:])
    assert isinstance(some, Scenes)


def test_task_without_masks() -> None:
    with pytest.raises(InputError, match=r"birds has no masks\. Give its index\.csv boxes or trimaps"):
        task_scenes(small_task(None))
