"""Accuracy, or anything else in percent, against λ or the steps of training."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from vitreg.errors import ArgumentError
from vitreg.plot.style import STYLES, legend, looks, panels, plain, text_colour

Point = tuple[float, float] | tuple[float, float, float]
"""Where, how high and, if known, the standard deviation."""


def against_lam(
    curves: Mapping[str, Iterable[Point]],
    *,
    baseline: Mapping[str, float] | None = None,
    what: str = "top-1, %",
) -> Figure:
    """Draw accuracy against the weight λ, a curve for each method.

    Args:
        curves: by method, points (λ, accuracy) or (λ, accuracy, standard deviation). The axis of λ is
            logarithmic, and begins with 0 if there is a point at 0.
        baseline: by name, the accuracy of what has no λ, such as plain fine-tuning, as a level line.
        what: what is measured.

    Raises:
        ArgumentError: no point, one of another form, or a negative λ.
    """
    figure, ((axes,),) = panels(1, 1)
    points = _draw(axes, curves)
    lams = {point[0] for point in points}
    if min(lams) < 0:
        raise ArgumentError(f"A weight λ is at least 0, found {min(lams):g}.")
    for (name, height), style in zip((baseline or {}).items(), _styles(len(baseline or {})), strict=True):
        axes.axhline(height, color=text_colour(), linestyle=style, linewidth=1.2, label=plain(name))
    lam_axis(axes, lams)
    axes.set_ylabel(what)
    legend(figure)
    return figure


def against_steps(curves: Mapping[str, Iterable[Point]], *, what: str = "top-1, %") -> Figure:
    """Draw accuracy in the course of training, a curve for each method.

    Args:
        curves: by method, points (step, accuracy) or (step, accuracy, standard deviation).
        what: what is measured.

    Raises:
        ArgumentError: no point, or one of another form.
    """
    figure, ((axes,),) = panels(1, 1)
    _draw(axes, curves)
    axes.set_xlabel("training steps")
    axes.set_ylabel(what)
    legend(figure)
    return figure


def lam_axis(axes: Axes, lams: Collection[float]) -> None:
    """Make the horizontal axis one of λ: logarithmic, with a place for 0 where it is among `lams`."""
    positive = {lam for lam in lams if lam > 0} or {1.0}
    low, high = min(positive), max(positive)
    if 0 in set(lams):  # which a logarithm does not show
        axes.set_xscale("symlog", linthresh=low)
        axes.set_xlim(-low / 4, high * 1.6)
    else:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.6, high * 1.6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda lam, _: f"{lam:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("λ")


def curve(
    axes: Axes, points: Sequence[Point], *, label: str, colour: str, marker: str, style: str = "-"
) -> None:
    """Draw points, with their standard deviations where they are known, and a line through them."""
    axes.errorbar(
        [point[0] for point in points],
        [point[1] for point in points],
        yerr=[point[2] if len(point) > 2 else 0.0 for point in points],
        label=plain(label),
        color=colour,
        marker=marker,
        markeredgecolor=text_colour(),
        linestyle=style,
        capsize=3,
    )


def _draw(axes: Axes, curves: Mapping[str, Iterable[Point]]) -> list[Point]:
    """Draw each curve from left to right, and return all points."""
    everything: list[Point] = []
    for (name, given), (colour, marker) in zip(curves.items(), looks(len(curves) + 1)[1:], strict=True):
        unsorted = list(given)
        wrong = [point for point in unsorted if not _is_point(point)]
        if not unsorted or wrong:
            found = f"{wrong[0]!r}" if wrong else "none"
            raise ArgumentError(
                f"Expected points (x, y) or (x, y, standard deviation) of {name!r}, found {found}."
            )
        points = sorted(unsorted, key=lambda point: point[0])
        curve(axes, points, label=name, colour=colour, marker=marker)
        everything += points
    if not everything:
        raise ArgumentError("Expected at least one curve, found none.")
    return everything


def _is_point(point: object) -> bool:
    return (
        isinstance(point, Sequence)
        and len(point) in (2, 3)
        and all(isinstance(value, int | float) and math.isfinite(value) for value in point)
    )


def _styles(count: int) -> list[str]:
    return [STYLES[(1 + place) % len(STYLES)] for place in range(count)]
