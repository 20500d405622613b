"""Test pictures whose backgrounds are exchanged: does a model look at the object, or at what is around it?

Source: Xiao et al. 2021 (ICLR), "Noise or Signal: The Role of Image Backgrounds in Object Recognition", arXiv
2006.09994, whose names are taken, on the outlines that a data set has.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vitreg.train.data.dataset import Task
from vitreg.train.data.test_sets import TestSet

BACKGROUNDS = 3
"""On how many others each object stands."""

MARGIN = 32
"""An object is widened by one part in so many of the side, since an outline's undecided pixels go with it."""


def background_tests(task: Task, *, seed: int = 0) -> list[TestSet]:
    """Return Original, Only-Background, Mixed-Same and Mixed-Rand of the test pictures that show an object.

    Each object stands on the backgrounds of other *test* pictures, of its own class or of another, whose
    object was taken out and the hole filled from around it. Training pictures play no part.
    """
    assert task.test_masks is not None
    is_seen = task.test_masks.flatten(1).any(1)
    pictures, objects = task.test[is_seen], task.test_masks[is_seen]
    labels = torch.tensor(task.test_labels)[is_seen]
    wide = widen(objects)
    empty = fill_holes(pictures, wide)
    generator = np.random.default_rng(seed)
    tests = [
        TestSet("original", pictures, tuple(labels.tolist()), objects),
        TestSet("only-background", empty, tuple(labels.tolist()), beside="original"),
    ]
    for name, is_same in (("mixed-same", True), ("mixed-rand", False)):
        own, other = _pairs(labels, is_same, generator)
        if not len(own):
            continue
        mixed = torch.where(wide[own, None], pictures[own], empty[other])
        groups = tuple(own.tolist())
        beside = "original" if len(set(groups)) == len(pictures) else ""
        tests.append(TestSet(name, mixed, tuple(labels[own].tolist()), objects[own], groups, beside=beside))
    return tests


def _pairs(labels: Tensor, is_same: bool, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return which object stands on whose background, each picture's `BACKGROUNDS` times."""
    own: list[int] = []
    other: list[int] = []
    for index, label in enumerate(labels.tolist()):
        candidates = [j for j in ((labels == label) == is_same).nonzero().flatten().tolist() if j != index]
        count = min(BACKGROUNDS, len(candidates))
        own += [index] * count
        other += generator.choice(candidates, count, replace=False).tolist() if count else []
    return torch.tensor(own, dtype=torch.long), torch.tensor(other, dtype=torch.long)


def widen(masks: Tensor) -> Tensor:
    """Return bool masks [n, size, size] with a margin around each object."""
    margin = max(1, round(masks.shape[-1] / MARGIN))
    return F.max_pool2d(masks[:, None].float(), 2 * margin + 1, stride=1, padding=margin)[:, 0] > 0


def fill_holes(pictures: Tensor, holes: Tensor) -> Tensor:
    """Return uint8 pictures [n, 3, size, size] whose holes [n, size, size] are filled from around them.

    The mean of what is known, at the finest of ever coarser scales at which anything is (push and pull:
    Gortler et al. 1996, "The Lumigraph", section 3.4).
    """
    known = (~holes)[:, None].float()
    levels = [(pictures.float() * known, known)]
    while levels[-1][1].shape[-1] > 1:
        levels.append(tuple(F.avg_pool2d(part, 2, ceil_mode=True) for part in levels[-1]))  # type: ignore[arg-type]
    result = torch.full_like(levels[-1][0], 127.5)
    for values, weights in reversed(levels):
        around = F.interpolate(result, values.shape[-2:], mode="bilinear")
        result = torch.where(weights > 0, values / weights.clamp(min=1e-6), around)
    return result.round().to(torch.uint8)
