"""What probabilities say of pictures: which class is taken for which, and how far they can be believed.

`report.html` beside it says how that looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

NUM_BINS = 10


def confusion(probabilities: Tensor, labels: Sequence[int]) -> Tensor:
    """Return how many pictures of each class (line) were taken for each class (column): [n, n]."""
    num_classes = probabilities.shape[1]
    cells = num_classes * torch.tensor(labels) + probabilities.argmax(1)
    # Where torch has to repeat itself, torchmetrics compares each picture with each cell: gigabytes.
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def commonest_mistakes(counts: Tensor, classes: Sequence[str], *, at_most: int = 5) -> list[str]:
    """Return the commonest mistakes in words, the commonest first."""
    wrong = counts.clone().fill_diagonal_(0).flatten()
    order = wrong.argsort(descending=True, stable=True)[:at_most]
    said = []
    for place in order[wrong[order] > 0].tolist():
        true, predicted = divmod(place, len(classes))
        share = f"{int(wrong[place])} of {int(counts[true].sum())}"
        said.append(f"{classes[true]} taken for {classes[predicted]}: {share}")
    return said


@dataclass(frozen=True)
class Reliability:
    """How sure a model is, and how often it is right.

    Attributes:
        error: the expected calibration error: the mean of |right - sure| over the bins, weighted by pictures.
        sure: the mean probability of the predicted class.
        right: the share of the pictures that are right.
        bins: of each bin of probability that holds a picture (its number from 0, how many, how sure, right).
    """

    error: float
    sure: float
    right: float
    bins: tuple[tuple[int, int, float, float], ...]

    def __str__(self) -> str:
        """What it means, in a sentence."""
        distance = 100 * (self.sure - self.right)
        kind = "over-confident" if distance > 0 else "under-confident"
        course = f"is {100 * self.sure:.0f} % sure on average and right on {100 * self.right:.0f} %"
        return f"{course}: {kind} by {abs(distance):.0f} points" if abs(distance) >= 1 else course


def reliability(probabilities: Tensor, labels: Sequence[int]) -> Reliability:
    """Return how far probabilities [pictures, classes] can be believed, in `NUM_BINS` bins of equal width.

    Source of the calibration error: Guo et al. 2017 (arXiv 1706.04599).
    """
    target = torch.tensor(labels)
    sure, predicted = probabilities.max(1)
    right = (predicted == target).float()
    error = multiclass_calibration_error(probabilities, target, probabilities.shape[1], n_bins=NUM_BINS)
    places = (sure * NUM_BINS).ceil().clamp(1, NUM_BINS).long() - 1
    bins = tuple(
        (place, int(here.sum()), float(sure[here].mean()), float(right[here].mean()))
        for place in range(NUM_BINS)
        if (here := places == place).any()
    )
    return Reliability(float(error), float(sure.mean()), float(right.mean()), bins)
