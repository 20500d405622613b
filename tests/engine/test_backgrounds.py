from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.data.backgrounds import BACKGROUNDS, background_tests, fill_holes, widen
from engine.demo.dataset import drawn_task


def test_holes_are_filled_from_around_them_and_nothing_else_changes() -> None:
    picture = torch.full((1, 3, 16, 16), 40, dtype=torch.uint8)
    picture[:, :, :, 8:] = 200
    hole = torch.zeros(1, 16, 16, dtype=torch.bool)
    hole[:, 6:10, 1:5] = True  # inside the dark half
    damaged = picture.clone()
    damaged[:, :, 6:10, 1:5] = 255
    result = fill_holes(damaged, hole)
    assert result[:, :, ~hole[0]].equal(damaged[:, :, ~hole[0]])
    assert (result[:, :, 6:10, 1:5].int() - 40).abs().max() <= 40  # of the dark half, not of the bright one
    assert fill_holes(picture, torch.ones(1, 16, 16, dtype=torch.bool)).unique().tolist() == [128]


def test_margins_are_as_wide_as_they_say() -> None:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 32, 32] = True
    assert widen(mask).nonzero().amin(0).tolist()[1:] == [30, 30]
    assert widen(mask).sum() == 25


def test_objects_stand_on_backgrounds_of_the_kind_that_the_name_says() -> None:
    task = drawn_task()
    assert task.test_masks is not None
    keep = [index for index in range(40) if task.test_masks[index].any()]
    keep = [*keep[:10], *(len(task.test) - 1 - index for index in range(10))]
    task = replace(
        task,
        test=task.test[keep],
        test_labels=tuple(task.test_labels[i] for i in keep),
        test_masks=task.test_masks[keep],
    )
    tests = {test.name: test for test in background_tests(task)}
    assert list(tests) == ["original", "only-background", "mixed-same", "mixed-rand"]
    assert tests["original"].pictures.equal(task.test)
    empty = tests["only-background"].pictures
    wide = widen(task.test_masks)
    for name in ("mixed-same", "mixed-rand"):
        test = tests[name]
        assert len(test.labels) == BACKGROUNDS * len(keep)
        for picture, label, own in zip(test.pictures, test.labels, test.groups, strict=True):
            assert label == task.test_labels[own]
            assert picture[:, wide[own]].equal(task.test[own][:, wide[own]])
            behind = [j for j in range(len(keep)) if picture[:, ~wide[own]].equal(empty[j][:, ~wide[own]])]
            assert behind
            assert all(j != own for j in behind)
            assert all((task.test_labels[j] == label) == (name == "mixed-same") for j in behind)
    again = {test.name: test for test in background_tests(task)}
    assert again["mixed-rand"].pictures.equal(tests["mixed-rand"].pictures)
    with pytest.raises(AssertionError):
        background_tests(replace(task, test_masks=None))
