"""Accuracy and attention as a picture: of each method, against λ, and against the steps of training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from engine.results.rows import Row, object_block
from vitreg.plot.curves import curve, lam_axis
from vitreg.plot.style import STYLES, legend, looks, panels, plain, png, text_colour
from vitreg.train.data.subset import Share
from vitreg.train.runs.report import Report
from vitreg.train.training.methods import BASELINE, SOURCE
from vitreg.train.training.state import LOG

_TOP1, _OBJECT = "top-1 on test pictures, %", "attention on the object, %"


def draw_methods(rows: Sequence[Row], reports: Sequence[Report], title: str) -> bytes:
    """Return the plot as a PNG file: a line of panels for each data set and source."""
    names = list(dict.fromkeys((row.data, row.source) for row in rows))
    with_objects = any(row.object_share is not None for row in rows)
    figure, grid = panels(len(names), 1 + with_objects)
    for line, (data, source) in zip(grid, names, strict=True):
        of_data = [row for row in rows if (row.data, row.source) == (data, source)]
        _panel(line[0], of_data, "top1", "std", _heading(data, source, _TOP1))
        if not with_objects:
            continue
        if of_data[0].block is None:
            line[1].axis("off")
            continue
        heading = _heading(data, source, f"{_OBJECT} (block {of_data[0].block})")
        _panel(line[1], of_data, "object_share", "object_share_std", heading)
        for row in of_data:
            if row.method == SOURCE and row.object_share is not None:
                line[1].axhline(
                    row.object_share, color="0.5", linestyle="--", linewidth=1.2, label="before training"
                )
    return as_png(figure, title)


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
    axes.set_title(heading, fontsize=10, loc="left")


def draw_lams(rows: Sequence[Row], reports: Sequence[Report], title: str) -> bytes:
    """Return a PNG file: top-1, and attention on the object where it is known, against λ.

    Fine-tuning without a penalty is a level line of its share's style.
    """
    names = list(dict.fromkeys((row.data, row.source) for row in rows))
    values = {_TOP1: ("top1", "std")}
    if any(row.object_share is not None for row in rows):
        values[_OBJECT] = ("object_share", "object_share_std")
    figure, grid = panels(len(names), len(values))
    for line, (data, source) in zip(grid, names, strict=True):
        own = [r for r in rows if (r.data, r.source) == (data, source) and r.method != SOURCE]
        shares = list(dict.fromkeys(row.share for row in own))
        methods = list(dict.fromkeys(row.method for row in own if row.lam is not None))
        for axes, (heading, (value, deviation)) in zip(line, values.items(), strict=True):
            for share, style in zip(shares, itertools.cycle(STYLES), strict=False):
                known = [row for row in own if row.share == share and getattr(row, value) is not None]
                for method, (colour, marker) in zip(methods, looks(len(methods) + 1)[1:], strict=True):
                    at = sorted(
                        (r.lam, getattr(r, value), getattr(r, deviation) or 0.0)
                        for r in known
                        if r.method == method and r.lam is not None
                    )
                    if at:
                        curve(axes, at, label=f"{method}, {share}", colour=colour, marker=marker, style=style)
                for row in known:
                    if row.method == BASELINE:
                        label = f"{BASELINE}, {share}"
                        axes.axhline(getattr(row, value), color=text_colour(), linestyle=style, label=label)
            lam_axis(axes, {row.lam for row in own if row.lam is not None})
            axes.set_title(_heading(data, source, heading), fontsize=10, loc="left")
    return as_png(figure, title)


def draw_steps(rows: Sequence[Row], reports: Sequence[Report], title: str) -> bytes:
    """Return a PNG file: top-1, attention on the object and drift where they are known, against the steps.

    The reports are those of runs with `measure_every`; the block is the one that the source looks at the
    objects with most.
    """
    groups: dict[tuple[str, str], list[Report]] = {}
    for report in reports:
        groups.setdefault((report.configuration.data, report.configuration.weights), []).append(report)
    has_objects = any("object_share" in report.metrics for report in reports)
    has_drift = any("drift" in entry for report in reports for entry in report.log)
    figure, grid = panels(len(groups), 1 + has_objects + has_drift)
    for line, ((data, _), own) in zip(grid, groups.items(), strict=True):
        block = object_block([r for r in own if r.configuration.method == SOURCE])
        drawn = [(line[0], "top1", 1, _TOP1)]
        if block is not None:
            drawn.append((line[1], f"object_share/{block}", 100, f"{_OBJECT} (block {block})"))
        if has_drift:
            drawn.append((line[-1], "drift", 100, "attention elsewhere than the source's, %"))
        for axes, name, scale, heading in drawn:
            _steps(axes, own, name, scale)
            axes.set_title(_heading(data, "", heading), fontsize=10, loc="left")
        for axes in line:
            axes.set_xlabel("training steps")
            if any(report.configuration.measure_every == LOG for report in own):
                axes.set_xscale("log", base=2)
                axes.xaxis.set_major_formatter(FuncFormatter(lambda steps, _: f"{steps:g}"))
    return as_png(figure, title)


def _steps(axes: Axes, reports: Iterable[Report], name: str, scale: float) -> None:
    cells: dict[tuple[str, float | None, Share | None], dict[int, list[float]]] = {}
    for report in reports:
        c = report.configuration
        for entry in report.log:
            if name in entry:
                at = cells.setdefault((c.method, c.lam, c.share), {})
                at.setdefault(int(entry["step"]) + 1, []).append(scale * entry[name])
    kinds = list(dict.fromkeys((method, lam) for method, lam, _ in cells))
    shares = list(dict.fromkeys(share for *_, share in cells))
    for (method, lam, share), measured in cells.items():
        colour, marker = looks(len(kinds))[kinds.index((method, lam))]
        points = [
            (step, fmean(values), stdev(values) if len(values) > 1 else 0.0)
            for step, values in sorted(measured.items())
        ]
        label = f"{method if lam is None else f'{method} (λ = {lam:g})'}, {share}"
        style = STYLES[shares.index(share) % len(STYLES)]
        curve(axes, points, label=label, colour=colour, marker=marker, style=style)


def _heading(data: str, source: str, what: str) -> str:
    return plain(f"{data}{f' from {source}' if source else ''}: {what}")


def as_png(figure: Figure, title: str) -> bytes:
    """Return a figure as a PNG file, with a title and one legend of all its panels, beside them."""
    legend(figure, height="center")
    figure.suptitle(plain(title), fontsize=11, x=0.01, ha="left")
    return png(figure)
