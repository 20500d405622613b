"""What the test sets look like: a line of pictures for each."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torchvision.utils import make_grid

from vitreg.plot.style import plain
from vitreg.train.basics.figures import png
from vitreg.train.data.dataset import evenly
from vitreg.train.data.test_sets import TestSet


def draw_test_sets(tests: Sequence[TestSet]) -> bytes:
    """Return a PNG file: a line for each test set, with up to eight of its pictures, taken evenly."""
    figure = Figure(figsize=(8.6, 1.25 * len(tests)), dpi=150, layout="constrained")
    for axes, test in zip(figure.subplots(len(tests), squeeze=False)[:, 0], tests, strict=True):
        strip = make_grid(test.pictures[evenly(len(test.pictures))], padding=4, pad_value=255)
        axes.imshow(strip.permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_title(plain(test.name), fontsize=9, loc="left")
        axes.set_axis_off()
    return png(figure)
