"""Measures of each block, as `vitreg.measure` returns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from vitreg.errors import ArgumentError
from vitreg.plot.style import SCALE, STYLES, legend, looks, panels, plain

Values = Tensor | Sequence[Sequence[float]] | Sequence[Tensor]


def drift(values: Values | Mapping[str, Values], steps: Sequence[int]) -> Figure:
    """Draw how far the attention of each block has moved in the course of training.

    Each step has a column of the same width, however far it is from the one before.

    Args:
        values: what `vitreg.measure.attention_drift` returned at each step, [s, l]; or several trainings by
            title, which share one colour scale.
        steps: at which steps, s of them.

    Raises:
        ArgumentError: values of another shape, or none.
    """
    named = values if isinstance(values, Mapping) else {"": values}
    tables = {title: _table(value, len(steps), title) for title, value in named.items()}
    if not tables or not len(steps):
        raise ArgumentError("Expected at least one training and one step, found none.")
    highest = max(float(table.max()) for table in tables.values())
    depth = max(table.shape[1] for table in tables.values())
    figure, (line,) = panels(1, len(tables), size=(2.9, max(2.2, 0.22 * depth)))
    for axes, (title, table) in zip(line, tables.items(), strict=True):
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        image = axes.imshow(
            table.T.numpy(), cmap=SCALE, vmin=0, vmax=highest or 1, aspect="auto", origin="lower"
        )
        every = max(1, -(-len(steps) // 6))
        axes.set_xticks(range(0, len(steps), every), [str(step) for step in steps[::every]])
        axes.set_yticks(range(0, table.shape[1], max(1, table.shape[1] // 12)))
        axes.set_xlabel("training step")
        axes.set_title(plain(title), fontsize=10, loc="left")
    line[0].set_ylabel("block (from 0)")
    bar = figure.colorbar(image, ax=line)
    bar.set_label("share of the attention that moved")
    bar.outline.set_visible(False)
    return figure


def object_share(shares: Mapping[str, Tensor | Sequence[float]]) -> Figure:
    """Draw which share of each block's attention lies on the object, a curve for each model.

    Args:
        shares: by title, one number a block, [l], in [0, 1]; of `vitreg.measure.object_share`, which has one
            for each picture too, the mean over pictures: `object_share(...).mean(1)`.

    Raises:
        ArgumentError: other shapes, values out of range, or none.
    """
    if not isinstance(shares, Mapping) or not shares:
        found = "none" if isinstance(shares, Mapping) else type(shares).__name__
        raise ArgumentError(f"Expected the shares of at least one model, by title, found {found}.")
    figure, ((axes,),) = panels(1, 1)
    for number, ((title, values), (colour, marker)) in enumerate(
        zip(shares.items(), looks(len(shares)), strict=True)
    ):
        y = torch.as_tensor(values).detach().float().cpu()
        if y.dim() != 1 or not len(y) or not bool(((y >= 0) & (y <= 1)).all()):
            found = f" from {float(y.min()):.3g} to {float(y.max()):.3g}" if y.numel() else ""
            raise ArgumentError(
                f"Expected one share a block of {title!r} in [0, 1], [l], found {list(y.shape)}{found}."
            )
        style = STYLES[number % len(STYLES)]
        axes.plot(
            range(len(y)), 100 * y.numpy(), color=colour, marker=marker, linestyle=style, label=plain(title)
        )
    axes.set_xlabel("block (from 0)")
    axes.set_ylabel("attention on the object, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure)
    return figure


def _table(values: Values, num_steps: int, title: str) -> Tensor:
    rows = [torch.as_tensor(row).detach().float().cpu() for row in values]
    shapes = {tuple(row.shape) for row in rows}
    if len(rows) != num_steps or len(shapes) != 1 or len(next(iter(shapes))) != 1 or not rows[0].numel():
        of = f" of {title!r}" if title else ""
        raise ArgumentError(
            f"Expected one value a step and block{of}, [{num_steps}, l], found {len(rows)} rows of shapes "
            f"{sorted(map(list, shapes))}."
        )
    table = torch.stack(rows)
    if not bool(table.isfinite().all()):
        raise ArgumentError(f"Expected finite values{f' of {title!r}' if title else ''}, found NaN or inf.")
    return table
