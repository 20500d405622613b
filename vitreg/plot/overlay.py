"""Maps laid over pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from vitreg.errors import ArgumentError, in_words
from vitreg.plot.pictures import Panel, check_count, draw_grid, enlarge, to_show
from vitreg.plot.style import shorten


def overlay(
    pictures: Tensor,
    maps: Mapping[str, Tensor],
    *,
    objects: Tensor | None = None,
    titles: Sequence[str] = (),
    saturated: float = 0.1,
    caption: str = "",
) -> Figure:
    """Draw pictures, and below each of them each map as heat over it: a column a picture, a line a map.

    A map is enlarged smoothly and scaled by its own maximum, so what can be compared is the place, not the
    amount. The picture below it is grey and stretched, so that a dark one is seen. Lightness grows with the
    map, and contours are drawn at half of the scale: nothing depends on colour alone.

    Args:
        pictures: what is shown, [b, 3, height, width], uint8 or between 0 and 1.
        maps: by the name that stands beside its line, [b, rows, columns] each, at least 0.
        objects: bool masks whose outlines are drawn, [b, height, width].
        titles: what stands above each picture, such as its name and whether it was predicted rightly.
        saturated: the share of a map's patches, those with the most, that is shown alike.
        caption: what stands below.

    Raises:
        ArgumentError: shapes that do not belong together, values out of range, or no map.
    """
    check_count(pictures)
    base = to_show(pictures, pictures)
    check_saturated(saturated)
    if not maps:
        raise ArgumentError("Expected at least one map, found none.")
    for what, value in {**maps, "objects": pictures if objects is None else objects}.items():
        if not isinstance(value, Tensor):
            raise ArgumentError(f"Expected a tensor for {what!r}, found {type(value).__name__}.")
    b, height, width = base.shape[:3]
    if objects is not None and (objects.shape != (b, height, width) or objects.dtype != torch.bool):
        raise ArgumentError(f"Expected bool masks {[b, height, width]}, found {in_words(objects)}.")
    outlines = [None] * b if objects is None else list(objects.cpu())
    titles = check_titles(titles, b)
    lines = [("picture", list(map(Panel, base, titles, outlines)))]
    for name, values in maps.items():
        if values.dim() != 3 or len(values) != b or not bool((values >= 0).all()):
            raise ArgumentError(
                f"Expected the map {name!r} as [{b}, rows, columns] of at least 0, found {list(values.shape)}"
                f"{'' if values.dim() != 3 or len(values) != b else ' with negative or missing values'}."
            )
        values = values.detach().float().cpu()
        panels = [
            Panel(image, outline=o, heat=enlarge(value, (height, width), saturated=saturated))
            for image, value, o in zip(base, values, outlines, strict=True)
        ]
        lines.append((shorten(name), panels))
    return draw_grid(lines, caption=caption)


def check_titles(titles: Sequence[str], count: int) -> Sequence[str]:
    """Return a title for each of `count` pictures; raises `ArgumentError` for another number of them."""
    if titles and len(titles) != count:
        raise ArgumentError(f"Expected a title for each of {count} pictures, found {len(titles)}.")
    return [shorten(title) for title in titles] or [""] * count


def check_saturated(saturated: object) -> None:
    """Raise `ArgumentError` unless `saturated` is a share of at least 0 and below 1."""
    is_number = isinstance(saturated, int | float) and not isinstance(saturated, bool)
    if not is_number or not 0 <= saturated < 1:  # type: ignore[operator]
        raise ArgumentError(f"saturated must be at least 0 and below 1, got {saturated!r}.")
