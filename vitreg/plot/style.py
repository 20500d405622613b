"""How all figures look: colours, markers and axes."""

from __future__ import annotations

from io import BytesIO
from itertools import cycle, islice

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitreg.wording import plain as printable

_COLOURS = ("#E69F00", "#56B4E9", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#999999")
"""Okabe and Ito's without black and yellow: told apart by colour-blind readers, on white and on black."""

_MARKERS = ("s", "D", "^", "v", "P", "X", "*")

STYLES = ("-", "--", ":", "-.")
"""Kinds of lines."""

SCALE = "cividis"
"""A colour scale whose lightness grows evenly, so that it can be read in grey and by colour-blind readers."""


def text_colour() -> str:
    """Return the colour of text that matplotlib is set to: black, or white in dark mode."""
    return str(matplotlib.rcParams["text.color"])


def looks(count: int) -> list[tuple[str, str]]:
    """Return a colour and a marker for each of `count` curves; the first has the colour of the text.

    Markers tell them apart in grey, and where a colour comes again.
    """
    pairs = [(text_colour(), "o"), *zip(_COLOURS, _MARKERS, strict=True)]
    others = zip(cycle(_COLOURS), cycle((*_MARKERS[3:], "h", *_MARKERS[:3], "p")))
    return (pairs + list(islice(others, max(0, count - len(pairs)))))[:count]


def panels(
    lines: int, columns: int, *, size: tuple[float, float] = (4.2, 3.1)
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with room for a legend, and its panels, of `size` inches each."""
    figure = Figure(figsize=(2.2 + size[0] * columns, 0.6 + size[1] * lines), dpi=150, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat:
        tidy(axes)
    return figure, grid.tolist()


def tidy(axes: Axes) -> None:
    """Draw faint level lines behind the curves, and no frame at the top and on the right."""
    axes.grid(axis="y", color=text_colour(), alpha=0.15)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend(figure: Figure, *, height: str = "upper") -> None:
    """Draw one legend of all panels beside them, at "center" where a long title is above."""
    handles = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc=f"outside right {height}", frameon=False, fontsize=9
        )


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file without date and version: the same runs give the same bytes."""
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def plain(text: str) -> str:
    """Return `text` so that matplotlib reads no formula in it, and hides no name that begins with _."""
    lines = [printable(line).replace("$", r"\$") for line in text.split("\n")]
    return (" " if text.startswith("_") else "") + "\n".join(lines)


def shorten(name: str, length: int = 22) -> str:
    """Return `name` in at most `length` characters, without its middle if it is longer."""
    half = length // 2
    return name if len(name) <= length else f"{name[:half]}…{name[half - length + 1 :]}"
