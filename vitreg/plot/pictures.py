"""Grids of pictures, with heat where a model looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from torch import Tensor

from vitreg.errors import ArgumentError, in_words
from vitreg.plot.style import plain

HEAT = "inferno"
"""The colours of attention: their lightness grows evenly, so that they can be read in grey, too."""

OPACITY = 0.5
"""How much of a pixel is heat; the rest is the picture in grey."""

LEVEL = 0.5
"""Where contours are drawn, as a share of the scale."""

GREY = (0.1, 0.8)
"""How dark and how bright the picture below the heat is: white would hide where the model does not look."""

_LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in the lightness of a pixel (ITU-R BT.601)."""

MOST_PICTURES = 40
"""Beyond, a figure would be wider than files of pictures may be, and unreadable before that."""

_SIDE = 1.3
"""A panel's width in inches: small beside its text, which has to be read on a phone."""


@dataclass(frozen=True)
class Panel:
    """One picture of a grid.

    Attributes:
        image: [height, width, 3] in [0, 1].
        title: what stands above it.
        outline: the object's mask, bool [height, width].
        heat: what is laid over the picture in grey, [height, width] in [0, 1].
    """

    image: Tensor
    title: str = ""
    outline: Tensor | None = None
    heat: Tensor | None = None


def check_count(images: Tensor) -> None:
    """Raise `ArgumentError` for more pictures than a figure can hold."""
    if isinstance(images, Tensor) and images.dim() == 4 and len(images) > MOST_PICTURES:
        raise ArgumentError(
            f"A figure holds up to {MOST_PICTURES} pictures, found {len(images)}. Draw a part of them."
        )


def to_show(pictures: Tensor | None, images: Tensor) -> Tensor:
    """Return float pictures [b, height, width, 3] in [0, 1] to show: those given, or what the model receives.

    Raises:
        ArgumentError: pictures of another number, shape or range.
    """
    if pictures is None:
        values = images.detach().float().cpu()
        low = values.amin((1, 2, 3), keepdim=True)
        values = (values - low) / (values.amax((1, 2, 3), keepdim=True) - low).clamp_min(1e-12)
    else:
        is_batch = isinstance(pictures, Tensor) and pictures.dim() == 4 and pictures.shape[1] in (1, 3)
        is_byte = is_batch and pictures.dtype == torch.uint8
        if not is_batch or not (is_byte or pictures.is_floating_point()) or len(pictures) != len(images):
            raise ArgumentError(
                f"Expected {len(images)} pictures [b, 3, height, width], uint8 or in [0, 1], found "
                f"{in_words(pictures)}."
            )
        values = pictures.detach().cpu().float() / (255 if is_byte else 1)
        if float(values.min()) < 0 or float(values.max()) > 1:
            raise ArgumentError(
                f"Expected pictures between 0 and 1, found {float(values.min()):.3g} to "
                f"{float(values.max()):.3g}. Give them as they were before they were normalised."
            )
    values = values if values.shape[1] == 3 else values.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return values.permute(0, 2, 3, 1)


def enlarge(attention: Tensor, size: tuple[int, int], *, saturated: float = 0.0) -> Tensor:
    """Return a map [rows, columns] as [height, width] in [0, 1], smoothly enlarged.

    It is scaled by its own maximum, so what can be compared between two is the place, not the amount.

    Args:
        attention: at least 0.
        size: height and width in pixels.
        saturated: the share of the patches, those with the most attention, that is shown alike: a single
            patch often draws most of it.
    """
    ceiling = attention.flatten().quantile(1 - saturated)
    if ceiling <= 0:  # fewer patches than that have any
        ceiling = attention.max()
    values = (attention.minimum(ceiling) / ceiling.clamp_min(1e-12))[None, None]
    return F.interpolate(values, size, mode="bicubic", align_corners=False)[0, 0].clamp(0, 1)


def in_grey(picture: Tensor) -> Tensor:
    """Return a picture [height, width, 3] in grey, [height, width], stretched so that a dark one is seen."""
    grey = picture @ torch.tensor(_LUMA)
    low, high = grey.flatten().quantile(torch.tensor([0.01, 0.99]))
    stretched = ((grey - low) / (high - low).clamp_min(0.05)).clamp(0, 1)
    return GREY[0] + (GREY[1] - GREY[0]) * stretched


def lay_heat(picture: Tensor, heat: Tensor) -> Tensor:
    """Return a picture [height, width, 3] in grey below half-transparent `heat` [height, width]."""
    colours = torch.as_tensor(matplotlib.colormaps[HEAT](heat.numpy())[..., :3], dtype=torch.float32)
    return OPACITY * colours + (1 - OPACITY) * in_grey(picture)[..., None]


def draw_panel(axes: Axes, panel: Panel) -> None:
    """Draw a picture, the heat over it with its contours, and the object's outline."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    image = panel.image if panel.heat is None else lay_heat(panel.image, panel.heat)
    axes.imshow(image.numpy(), interpolation="antialiased")
    if panel.heat is not None and panel.heat.min() < LEVEL < panel.heat.max():
        axes.contour(panel.heat.numpy(), levels=[LEVEL], colors="white", linewidths=0.8)
    if panel.outline is not None:
        outline(axes, panel.outline)


def draw_grid(lines: Sequence[tuple[str, Sequence[Panel]]], *, caption: str = "", dpi: int = 150) -> Figure:
    """Return a figure of lines of panels, each line with its name at the left."""
    columns = max(len(panels) for _, panels in lines)
    height, width = lines[0][1][0].image.shape[:2]
    num_titled = sum(any(panel.title for panel in panels) for _, panels in lines)
    has_names = any(name for name, _ in lines)
    has_heat = any(panel.heat is not None for _, panels in lines for panel in panels)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    size = (
        max(
            _SIDE * columns + (0.3 if has_names else 0.05) + (0.6 if has_heat else 0),
            0.2 + 0.065 * len(caption),
        ),
        _SIDE * height / width * len(lines) + 0.22 * num_titled + (0.3 if caption else 0.05),
    )
    figure = Figure(figsize=size, dpi=dpi, layout=layout)
    grid = figure.subplots(len(lines), columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], facecolor="none")
        axes.spines[:].set_visible(False)
    for row, (name, panels) in zip(grid, lines, strict=True):
        row[0].set_ylabel(plain(name), fontsize=9)
        for axes, panel in zip(row, panels, strict=False):
            draw_panel(axes, panel)
            if panel.title:
                axes.set_title(plain(panel.title), fontsize=7, pad=3)
    if has_heat:
        bar = figure.colorbar(ScalarMappable(cmap=HEAT), ax=grid, fraction=0.02, pad=0.01, aspect=25)
        bar.set_ticks([0, LEVEL, 1], labels=["none", "half", "most"], fontsize=7)
        bar.outline.set_visible(False)
        bar.ax.axhline(LEVEL, color="white", linewidth=0.8)
    if caption:
        figure.supxlabel(plain(caption), fontsize=8)
    return figure


def outline(axes: Axes, mask: Tensor) -> None:
    """Draw the border of a bool mask [height, width], white on black, closed at the picture's edge."""
    if not mask.any():  # matplotlib 3.8 warns of a contour without lines
        return
    height, width = mask.shape
    across, down = (torch.arange(-1, side + 1).numpy() for side in (width, height))
    padded = F.pad(mask.float(), (1, 1, 1, 1)).numpy()
    lines = axes.contour(across, down, padded, levels=[0.5], colors="white", linewidths=1.1)
    lines.set_path_effects([withStroke(linewidth=2.4, foreground="black")])
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
