"""Which class is taken for which: in numbers and in words. `report.html` beside it says how they look."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
