"""The table as a picture: accuracy of each method, and its attention on the object."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engine.results.rows import Row
from vitreg.plot.style import legend, looks, panels, plain, png, text_colour
from vitreg.train.runs.report import Report
from vitreg.train.training.methods import SOURCE


def draw(rows: Sequence[Row], reports: Sequence[Report], title: str) -> bytes:
    """Return the plot as a PNG file: a line of panels for each data set and source."""
    names = list(dict.fromkeys((row.data, row.source) for row in rows))
    with_objects = any(row.object_share is not None for row in rows)
    columns = 2 if with_objects else 1
    figure, grid = panels(len(names), columns)
    for line, (data, source) in zip(grid, names, strict=True):
        of_data = [row for row in rows if (row.data, row.source) == (data, source)]
        data = f"{data} from {source}" if source else data
        _panel(line[0], of_data, "top1", "std", f"{data}: top-1 on test pictures, %")
        if not with_objects:
            continue
        if of_data[0].block is None:
            line[1].axis("off")
            continue
        heading = f"{data}: attention on the object, % (block {of_data[0].block})"
        _panel(line[1], of_data, "object_share", "object_share_std", heading)
        for row in of_data:
            if row.method == SOURCE and row.object_share is not None:
                line[1].axhline(
                    row.object_share, color="0.5", linestyle="--", linewidth=1.2, label="before training"
                )
    return as_png(figure, title)


def as_png(figure: Figure, title: str) -> bytes:
    """Return a figure as a PNG file, with a title and one legend of all its panels, beside them."""
    legend(figure, height="center")
    figure.suptitle(plain(title), fontsize=11, x=0.01, ha="left")
    return png(figure)


def _panel(axes: Axes, rows: Sequence[Row], value: str, deviation: str, heading: str) -> None:
    rows = [row for row in rows if row.method != SOURCE and getattr(row, value) is not None]
    shares = list(dict.fromkeys(row.share for row in rows))
    # Where each cell has one λ, it is the method that is compared, whatever the λ of each share.
    has_one_lam = len({(row.share, row.method) for row in rows}) == len(rows)
    kinds = list(dict.fromkeys((row.method, None if has_one_lam else row.lam) for row in rows))
    for number, ((method, lam), (colour, marker)) in enumerate(zip(kinds, looks(len(kinds)), strict=True)):
        own = [row for row in rows if row.method == method and (has_one_lam or row.lam == lam)]
        lams = {row.lam for row in own if row.lam is not None}
        shift = 0.12 * (number - (len(kinds) - 1) / 2)  # beside each other: no error bar hides another
        axes.errorbar(
            [shares.index(row.share) + shift for row in own],
            [getattr(row, value) for row in own],
            yerr=[getattr(row, deviation) or 0.0 for row in own],
            linestyle="none",
            capsize=3,
            label=f"{method} (λ = {lams.pop():g})" if len(lams) == 1 else method,
            color=colour,
            marker=marker,
            markeredgecolor=text_colour(),
            markersize=7,
        )
    axes.set_xticks(range(len(shares)), shares)
    axes.set_xlim(-0.5, len(shares) - 0.5)
    axes.set_xlabel("training pictures used")
    axes.set_title(plain(heading), fontsize=10, loc="left")
