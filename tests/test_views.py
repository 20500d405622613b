"""Views: a finite number of augmentations of each picture, drawn again by number."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

import vitreg


class Augmented(Dataset):
    """Three pictures whose augmentation draws from all generators."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        drawn = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        return index + torch.tensor(drawn, dtype=torch.float64), index


def test_a_view_is_the_same_each_time_and_unlike_the_others() -> None:
    views = vitreg.Views(Augmented(), 4)
    assert (len(views), views.size) == (3, 12)
    seen = {}
    for index in range(3):
        for place in range(4):
            image, label, number = views.view(index, place)
            assert label == index
            assert all(not torch.equal(image % 1, other % 1) for other in seen.values())
            seen[number] = image
    assert sorted(seen) == list(range(12))
    for number, image in seen.items():
        assert torch.equal(views.view(*divmod(number, 4))[0], image)


def test_drawing_chooses_every_view_and_tells_its_number() -> None:
    views = vitreg.Views(Augmented(), 4)
    drawn = [views[2] for _ in range(60)]
    assert {number for _, _, number in drawn} == {8, 9, 10, 11}
    for image, _, number in drawn:
        assert torch.equal(image, views.view(2, number - 8)[0])
    assert len(list(views)) == 3
    assert views[-1][1] == 2


def test_another_seed_has_other_views() -> None:
    one, other = (vitreg.Views(Augmented(), 1, seed=seed)[0][0] for seed in (0, 1))
    assert not torch.equal(one, other)


def test_generators_are_left_as_they_were() -> None:
    views = vitreg.Views(Augmented(), 4)
    states = []
    for draw in (False, True):
        random.seed(3), np.random.seed(3), torch.manual_seed(3)
        if draw:
            views.view(1, 2)
        states.append((random.random(), np.random.rand(), torch.rand(())))
    assert states[0] == states[1]


def test_workers_draw_the_same_views() -> None:
    views = vitreg.Views(Augmented(), 2)
    for images, labels, numbers in DataLoader(views, batch_size=3, num_workers=2, shuffle=True):
        for image, label, number in zip(images, labels, numbers, strict=True):
            assert torch.equal(image, views.view(int(label), int(number) % 2)[0])


def test_mappings_and_bare_pictures_get_their_number_too() -> None:
    assert vitreg.Views([{"image": 1}, {"image": 2}], 1)[1] == {"image": 2, "view": 1}
    assert vitreg.Views([5, 6], 1)[1] == (6, 1)


class Stream(IterableDataset):
    def __iter__(self):
        yield 1


def test_what_cannot_have_views_is_refused() -> None:
    with pytest.raises(vitreg.ArgumentError, match="A stream has no"):
        vitreg.Views(Stream(), 2)
    for num_views in (0, True, 1.5):
        with pytest.raises(vitreg.ArgumentError, match="num_views"):
            vitreg.Views(Augmented(), num_views)
    for seed in (-1, True, 1.5):
        with pytest.raises(vitreg.ArgumentError, match="seed"):
            vitreg.Views(Augmented(), 4, seed=seed)
    for place in ((3, 0), (0, 4), (-4, 0), (0, -1)):
        with pytest.raises(vitreg.ArgumentError, match="3 pictures and 4 views"):
            vitreg.Views(Augmented(), 4).view(*place)
