from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from vitreg.errors import InputError
from vitreg.train.data.batches import Draw
from vitreg.train.data.device_photos import DevicePhotos, computed
from vitreg.train.data.noted_picture import NotedPicture, noting_operation
from vitreg.train.data.photographs import Photos
from vitreg.train.data.samples import Sample
from vitreg.views import random_numbers

CPU = torch.device("cpu")
SIZE = 64
RAND = "rand-m9-mstd0.5-inc1"
OPERATIONS = sorted(
    {
        *auto_augment._RAND_TRANSFORMS,
        *auto_augment._RAND_INCREASING_TRANSFORMS,
        *auto_augment._RAND_3A,
        *auto_augment._RAND_WEIGHTED_3A,
        *auto_augment._RAND_WEIGHTED_0,
    }
)
GEOMETRY = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")


def photograph(width: int, height: int, *, seed: int) -> Image.Image:
    """Soft patches of colour with a little noise: neighbours are alike, as in a photograph."""
    numbers = np.random.default_rng(seed)
    patches = numbers.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((soft + numbers.normal(0, 3, soft.shape)).clip(0, 255).astype(np.uint8))


def photos(augment: str, *, count: int = 5) -> Photos:
    made = Photos(
        (Sample(Path("not there.jpg"), 0),) * count, size=SIZE, augment=augment, mean=(0.5, 0.4, 0.3)
    )
    for index in range(count):
        made.keep(index, photograph(150 + 20 * index, 170, seed=index))
    return made


def draws(count: int, *, pictures: int = 5) -> list[Draw]:
    return [Draw(place % pictures, 1000 + place) for place in range(count)]


def expected(made: Photos, drawn: list[Draw]) -> Tensor:
    return torch.stack([made.picture(draw[0], seed=draw[1]) for draw in drawn])


def difference(first: Tensor, second: Tensor) -> Tensor:
    assert first.dtype == second.dtype == torch.uint8
    assert first.shape == second.shape
    return (first.int() - second.int()).abs().float()


def operation(name: str, magnitude: float, **hparams: object) -> auto_augment.AugmentOp:
    made = auto_augment.AugmentOp(name, 1.0, magnitude, {"img_mean": (120, 30, 250), **hparams})
    if name.startswith("Posterize"):
        made.magnitude_max = 9.99  # as in `training_transform`
    return made


def both(made: auto_augment.AugmentOp, picture: Image.Image, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return the picture [3, h, w] after timm's operation as it is, and as it is noted and computed."""
    with random_numbers(seed):
        plain = pil_to_tensor(made(picture))
    made.aug_fn = noting_operation(made)
    note = NotedPicture(*picture.size)
    with random_numbers(seed):
        assert made(note) is note
    return plain, computed(pil_to_tensor(picture)[None], [note.steps])[0]


def test_there_are_operations() -> None:
    assert len(OPERATIONS) >= 20
    assert set(GEOMETRY) < set(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_pillows(name: str) -> None:
    # Pillow drops or rounds the fraction of a level, and a whole level may come out a hair below.
    bound = 0.1 if name in (*GEOMETRY, "GaussianBlur") else 0
    for magnitude in (2.5, 5, 9, 10):
        for seed in range(6):
            picture = photograph(96, 80, seed=seed)
            plain, computed = both(operation(name, magnitude), picture, seed=seed)
            far = difference(plain, computed)
            assert far.mean() <= bound
            assert far.max() <= (1 if bound else 0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_changes_the_picture(name: str) -> None:
    # AutoContrast stretches what has no black and no white.
    picture = photograph(96, 80, seed=3).point([40 + level // 2 for level in range(256)] * 3)
    plain, _ = both(operation(name, 6), picture, seed=1)
    assert difference(plain, pil_to_tensor(picture)).mean() > 0.1


@pytest.mark.parametrize("name", GEOMETRY)
@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_interpolation_is_pillows(name: str, resample: Image.Resampling) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    for seed in range(4):
        plain, computed = both(operation(name, 7, interpolation=resample), Image.fromarray(noise), seed=seed)
        far = difference(plain, computed)
        assert far.mean() <= 0.02
        assert far.max() <= 1


def test_interpolation_is_drawn_as_in_timm() -> None:
    picture = photograph(64, 64, seed=0)
    for seed in range(6):  # bilinear or bicubic, by Python's generator
        plain, computed = both(operation("ShearX", 7), picture, seed=seed)
        assert difference(plain, computed).max() <= 1


@pytest.mark.parametrize("degrees", [0, 90, 180])
def test_quarter_turns_are_exact(degrees: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    for seed in range(4):  # to either side
        made = operation("Rotate", degrees / 3, magnitude_max=60)
        plain, computed = both(made, Image.fromarray(noise), seed=seed)
        assert torch.equal(plain, computed)


@pytest.mark.parametrize("level", [0, 90, 255])
@pytest.mark.parametrize("name", ["AutoContrast", "Equalize", "ContrastIncreasing", "SharpnessIncreasing"])
def test_picture_of_one_colour(name: str, level: int) -> None:
    plain, computed = both(operation(name, 9), Image.new("RGB", (40, 30), (level, level, 7)), seed=0)
    assert torch.equal(plain, computed)


@pytest.mark.parametrize("augment", ["crop", RAND, "rand-m9-n3-p1", "rand-m7-t3aw-p1", "rand-m9-tweights"])
def test_batch_is_the_transform_of_the_cpu(augment: str) -> None:
    made = photos(augment)
    drawn = draws(60)
    plain = expected(made, drawn)
    far = difference(DevicePhotos(made, CPU).batch(drawn), plain).flatten(1)
    # A crop differs by a level here and there, which Solarize and Posterize may make a large step.
    assert far.mean() < 0.1
    assert far.mean(1).max() < (0.5 if augment == "crop" else 2)
    assert (far > 2).float().mean() < 0.005
    assert augment != "crop" or far.max() <= 2
    other = difference(plain, expected(made, [Draw(draw[0], draw[1] + 1) for draw in drawn]))
    assert other.mean() > 10  # the bounds above would notice another crop


def test_none_is_the_picture_as_the_network_sees_it() -> None:
    made = photos("none")
    assert torch.equal(DevicePhotos(made, CPU).batch(draws(7)), expected(made, draws(7)))


def test_picture_depends_on_its_own_draw_alone() -> None:
    device = DevicePhotos(photos(RAND), CPU)
    drawn = draws(24)
    together = device.batch(drawn)
    assert torch.equal(device.batch(drawn[::-1]), together.flip(0))
    alone = torch.cat([DevicePhotos(device.photos, CPU).batch([draw]) for draw in drawn])
    assert torch.equal(alone, together)
    assert torch.equal(device.batch([drawn[3], drawn[3]]), together[[3, 3]])


@pytest.mark.parametrize("augment", [RAND, "none"])
def test_pictures_beyond_the_limit_are_the_same(augment: str) -> None:
    made = photos(augment)
    all_kept = DevicePhotos(made, CPU)
    batch = all_kept.batch(draws(10))
    assert sorted(all_kept.kept) == [0, 1, 2, 3, 4]
    assert all_kept.bytes_kept == sum(picture.nbytes for picture in all_kept.kept.values())
    for limit, count in ((0, 0), (all_kept.bytes_kept // 2, 2)):
        some = DevicePhotos(made, CPU, limit=limit)
        for _ in range(2):
            assert torch.equal(some.batch(draws(10)), batch)
        assert len(some.kept) == count
        assert some.bytes_kept <= limit


def test_kept_pictures_are_not_read_again() -> None:
    device = DevicePhotos(photos(RAND), CPU)
    first = device.batch(draws(5))
    device.photos.kept.clear()  # and there are no files
    assert torch.equal(device.batch(draws(5)), first)
    device.kept.clear()
    with pytest.raises(InputError, match="not there"):
        device.batch(draws(5))


def test_only_drawn_pictures_are_kept() -> None:
    device = DevicePhotos(photos(RAND), CPU)
    device.batch([Draw(3, 0), Draw(1, 0), Draw(3, 1)])
    assert sorted(device.kept) == [1, 3]


def test_random_numbers_stay_as_they_were() -> None:
    def state() -> tuple[object, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    device = DevicePhotos(photos(RAND), CPU)
    before = state()
    device.batch(draws(8))
    assert state() == before


def test_transform_of_the_cpu_stays_as_it_was() -> None:
    made = photos(RAND)
    before = expected(made, draws(8))
    DevicePhotos(made, CPU).batch(draws(8))
    assert torch.equal(expected(made, draws(8)), before)


@pytest.mark.parametrize("augment", ["crop", "rand-m9-n3-p1-inc1", "rand-m7-t3aw-p1"])
def test_nothing_waits_for_the_device(augment: str) -> None:
    # On this device there are shapes and no values: to ask for one is an error.
    batch = DevicePhotos(photos(augment), torch.device("meta")).batch(draws(60))
    assert batch.is_meta
    assert (batch.shape, batch.dtype) == ((60, 3, SIZE, SIZE), torch.uint8)


@pytest.mark.parametrize("augment", ["original", "v0", "3a", "augmix-m3"])
def test_other_policies_are_refused(augment: str) -> None:
    with pytest.raises(InputError, match=r"knows crop, none and timm's rand-.*not Au.*augment on the CPU"):
        DevicePhotos(photos(augment, count=1), CPU)


def test_unknown_operation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown: Callable[..., Image.Image] = lambda picture, **_: picture  # noqa: E731
    monkeypatch.setitem(auto_augment.NAME_TO_OP, "Invert", unknown)
    with pytest.raises(InputError, match=r"does not know timm's operation Invert.*augment on the CPU"):
        DevicePhotos(photos(RAND, count=1), CPU)


@pytest.mark.gpu
def test_gpu_differs_by_rounding_alone() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    made = photos(RAND)
    device = DevicePhotos(made, torch.device("cuda"))
    device.batch(draws(60))
    with_values = torch.cuda.get_rng_state()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = device.batch(draws(60))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(torch.cuda.get_rng_state(), with_values)
    far = difference(batch.cpu(), expected(made, draws(60)))
    assert far.mean() < 0.2
    assert (far > 2).float().mean() < 0.005
