from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from vitreg.train.data.transforms import box_mask, evaluation_transform, training_transform, trimap_mask
from vitreg.views import random_numbers

MEAN = (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("width", "height"), [(90, 60), (60, 90), (64, 64), (200, 61)])
def test_mask_goes_where_the_picture_goes(width: int, height: int) -> None:
    # A white rectangle on black, and the mask of that rectangle: after the transform they must still agree.
    mask = box_mask((width * 0.42, height * 0.2, width * 0.2, height * 0.5), height=height, width=width)
    picture = Image.fromarray(mask.numpy().astype(np.uint8) * 255).convert("RGB")
    seen, cut = evaluation_transform(48)(picture, mask)
    assert cut is not None
    assert (seen.shape, cut.shape, cut.dtype) == ((3, 48, 48), (48, 48), torch.bool)
    disagree = ((seen[0] > 127) != cut).float().mean()
    assert disagree < 0.05  # the outline, where bicubic and nearest may differ by a pixel
    shifted = ((seen[0] > 127) != cut.roll(4, dims=1)).float().mean()
    assert shifted > 0.06  # the bound above would notice a shift


def test_evaluation_geometry_is_resize_then_centre_crop() -> None:
    picture = Image.new("RGB", (512, 256))
    picture.paste((255, 0, 0), (144, 16, 368, 240))  # the central 224 of 256
    seen, _ = evaluation_transform(224)(picture, None)
    assert (seen[0] == 255).all()
    assert (seen[1:] == 0).all()


def test_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="mask"):
        evaluation_transform(32)(Image.new("RGB", (40, 50)), torch.zeros(40, 50, dtype=torch.bool))


def test_box_mask_against_loops() -> None:
    left, top, width, height = 2.5, 1.0, 3.2, 2.0
    expected = [
        [left <= x + 0.5 < left + width and top <= y + 0.5 < top + height for x in range(8)] for y in range(5)
    ]
    assert box_mask((left, top, width, height), height=5, width=8).tolist() == expected


def test_trimap_counts_the_object_alone() -> None:
    trimap = Image.fromarray(np.array([[1, 2, 3], [3, 1, 1]], dtype=np.uint8))
    assert trimap_mask(trimap).tolist() == [[True, False, False], [False, True, True]]


def test_training_transform_varies_and_keeps_the_size() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    transform = training_transform(32, augment="rand-m9-mstd0.5-inc1", mean=MEAN)
    seen = [transform(picture) for _ in range(4)]
    assert all(tensor.shape == (3, 32, 32) and tensor.dtype == torch.uint8 for tensor in seen)
    assert not torch.equal(seen[0], seen[1])
    plain = training_transform(32, augment="none", mean=MEAN)
    assert torch.equal(plain(picture), evaluation_transform(32)(picture, None)[0])


def test_posterize_at_full_magnitude_neither_fails_nor_blackens() -> None:
    picture = Image.fromarray(np.full((60, 80, 3), 255, dtype=np.uint8))
    transform = training_transform(32, augment="rand-m10-n1-inc1", mean=MEAN)  # each operation at its most
    operations = [op for step in transform.transforms for op in getattr(step, "ops", ())]
    posterize = [op for op in operations if op.name.startswith("Posterize")]
    assert posterize
    for operation in posterize:
        operation.prob = 1.0
        assert np.asarray(operation(picture)).max() > 0


@pytest.mark.parametrize("augment", ["none", "crop", "rand-m9-mstd0.5-inc1"])
def test_a_transform_can_be_sent_to_a_spawned_process(augment: str) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8))
    transform = training_transform(32, augment=augment, mean=(0.5, 0.5, 0.5))
    sent = pickle.loads(pickle.dumps(transform))
    found = []
    for one in (transform, sent):
        with random_numbers(3):
            found.append(one(picture))
    assert torch.equal(*found)
