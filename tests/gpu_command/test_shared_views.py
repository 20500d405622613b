"""Views are computed once for all who map the same file, and are the pixels of the augmentation itself."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gpu_steps.shared_views import SharedViews
from vitreg.views import view_seed


class Pictures:
    """Training pictures that count how often they are augmented."""

    def __init__(self) -> None:
        self.drawn: list[tuple[int, int]] = []

    def picture(self, index: int, *, seed: int) -> Tensor:
        self.drawn.append((index, seed))
        generator = torch.Generator().manual_seed(1000 * index + seed % 1000)
        return torch.randint(0, 256, (3, 4, 4), generator=generator, dtype=torch.uint8)

    def plain(self, index: int) -> Tensor:
        return torch.full((3, 4, 4), index, dtype=torch.uint8)


def shared(pictures: Pictures, path: Path) -> SharedViews:
    return SharedViews(pictures, path, num_pictures=3, num_views=2, size=4)


def test_a_view_is_computed_once_for_all(tmp_path: Path) -> None:
    mine, theirs = Pictures(), Pictures()
    one, other = shared(mine, tmp_path / "set"), shared(theirs, tmp_path / "set")
    seeds = [(index, view_seed(0, 2 * index + view)) for index in range(3) for view in range(2)]
    one.fill([0, 2])
    for index, seed in seeds:
        expected = Pictures().picture(index, seed=seed)
        assert torch.equal(other.picture(index, seed=seed), expected)
        assert torch.equal(one.picture(index, seed=seed), expected)
    assert [index for index, _ in mine.drawn] == [0, 0, 2, 2]
    assert [index for index, _ in theirs.drawn] == [1, 1]


def test_what_is_drawn_is_nobody_elses_memory(tmp_path: Path) -> None:
    one = shared(Pictures(), tmp_path / "set")
    picture = one.picture(1, seed=view_seed(0, 2))
    picture.zero_()
    assert one.picture(1, seed=view_seed(0, 2)).any()


def test_other_augmentations_and_test_pictures_are_not_kept(tmp_path: Path) -> None:
    pictures = Pictures()
    one = shared(pictures, tmp_path / "set")
    for _ in range(2):
        one.picture(1, seed=5)
    assert pictures.drawn == [(1, 5), (1, 5)]
    assert torch.equal(one.plain(2), pictures.plain(2))
