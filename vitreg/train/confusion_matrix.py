"""Which class is taken for which: in numbers, words and a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from vitreg.plot.style import plain
from vitreg.train.basics.figures import png

MOST_WITH_COUNTS = 30
"""Classes up to which each cell shows its count; beyond, the colours have to do."""

MOST_WITH_NAMES = 200
"""Classes up to which the axes name each; beyond, names would lie on each other."""

LONGEST_NAME = 40


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


def draw_confusion(counts: Tensor, classes: Sequence[str], title: str) -> bytes:
    """Return the matrix as a PNG file: a line for each true class, coloured by shares of the line."""
    num_classes = len(classes)
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    cell = 0.45 if num_classes <= MOST_WITH_COUNTS else 0.2
    side = min(max(cell * num_classes, 2.6), 30.0) + 2.0
    figure = Figure(figsize=(side + 0.9, side), dpi=100, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if num_classes <= MOST_WITH_COUNTS:
        for true, predicted in counts.nonzero().tolist():
            colour = "white" if share[true, predicted] > 0.55 else "black"
            text = str(int(counts[true, predicted]))
            axes.text(predicted, true, text, ha="center", va="center", color=colour, fontsize=9)
    if num_classes <= MOST_WITH_NAMES:
        size = 9 if num_classes <= MOST_WITH_COUNTS else 7
        names = [f"{name[: LONGEST_NAME - 1]}…" if len(name) > LONGEST_NAME else name for name in classes]
        names = [plain(name) for name in names]
        axes.set_xticks(range(num_classes), names, rotation=90, fontsize=size)
        axes.set_yticks(range(num_classes), names, fontsize=size)
        axes.set_xticks([place - 0.5 for place in range(1, num_classes)], minor=True)
        axes.set_yticks([place - 0.5 for place in range(1, num_classes)], minor=True)
        axes.grid(which="minor", color="0.92", linewidth=0.6)
        axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(plain(title), fontsize=10, loc="left")
    figure.colorbar(image, label="share of the true class", shrink=min(1.0, 4 / side + 0.2))
    return png(figure)
