"""Where models look, drawn over the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor, nn

from vitreg.errors import ArgumentError
from vitreg.extractors import blocks_read
from vitreg.families import find_tower
from vitreg.grids import covered_size
from vitreg.measure import attention_maps, attention_rollout
from vitreg.plot.overlay import check_saturated, check_titles
from vitreg.plot.pictures import Panel, check_count, draw_grid, enlarge, to_show
from vitreg.plot.style import shorten
from vitreg.types import Heads, Layers, Query

Models = nn.Module | Mapping[str, nn.Module]
Titled = tuple[str, Tensor]
"""What stands above or beside a map, and the map [b, rows, columns]."""

_WIDE = 7
"""Panels in a line of one picture."""


def attention(
    models: Models,
    images: Tensor,
    *,
    pictures: Tensor | None = None,
    titles: Sequence[str] = (),
    layers: Layers = -1,
    heads: Heads = "mean",
    query: Query = "cls",
    saturated: float = 0.1,
) -> Figure:
    """Draw where one or several models look: heat over the pictures in grey where the attention falls.

    Of several pictures each has a column, and each model, block and head a line. Of one picture each block
    and head is a panel, and each model begins a line. A map is scaled by its own maximum: what can be
    compared is the place, not the amount.

    Args:
        models: a Vision Transformer, or several by title, such as `{"source": source, "target": model}`.
        images: as the models receive them, on their device, [b, c, height, width].
        pictures: what is shown, [b, 3, height, width], uint8 or between 0 and 1; by default `images`, each
            stretched to that range.
        titles: what stands above each picture, such as its name.
        layers: which blocks; of each model, where depths differ.
        heads: "mean", or "each" head for itself.
        query: whose attention: "cls", "mean" or "pool".
        saturated: the share of the patches, those with the most attention, that is shown alike.

    Raises:
        ArgumentError: an unknown option, or pictures of another number or range.
        UnsupportedModelError: the attention cannot be read, see `vitreg.measure.attention_maps`.
    """
    if heads not in ("mean", "each"):
        raise ArgumentError(f"heads must be 'mean' or 'each', got {heads!r}.")
    if query == "pool" and layers == -1:
        layers = "all"  # there is one attention pooling
    check_count(images)
    found: dict[str, list[Titled]] = {}
    for name, model in _by_title(models).items():
        maps = attention_maps(model, images, layers=layers, query=query)
        indices = blocks_read("attn_probs", layers, query, find_tower(model))
        found[name] = []
        for index, value in zip(indices, maps, strict=True):
            block = "" if query == "pool" else f"block {index}"
            if heads == "mean":
                found[name].append((block, value.mean(1)))
            else:
                words = [", ".join(filter(None, (block, f"head {h}"))) for h in range(value.shape[1])]
                found[name] += [(word, value[:, h]) for h, word in enumerate(words)]
    whose = {"cls": "class token", "mean": "patches", "pool": "attention pooling"}[query]
    said = f"attention of the {whose}, {'mean over heads' if heads == 'mean' else 'each head'}"
    caption = said if query == "pool" else f"{said}; blocks from 0"
    return _draw(_by_title(models), found, images, pictures, titles, saturated, caption)


def rollout(
    models: Models,
    images: Tensor,
    *,
    pictures: Tensor | None = None,
    titles: Sequence[str] = (),
    query: Query = "cls",
    saturated: float = 0.1,
) -> Figure:
    """Draw the attention rollout of one or several models: attention through all blocks.

    Args:
        models: see `attention`.
        images: see `attention`.
        pictures: see `attention`.
        titles: see `attention`.
        query: "cls", or "mean" for all patches alike.
        saturated: see `attention`.

    Raises:
        ArgumentError: see `attention`.
        UnsupportedModelError: see `vitreg.measure.attention_rollout`.
    """
    check_count(images)
    maps = {
        name: [("rollout", attention_rollout(model, images, query=query))]
        for name, model in _by_title(models).items()
    }
    caption = "attention rollout through all blocks, mean over heads"
    return _draw(_by_title(models), maps, images, pictures, titles, saturated, caption)


def _by_title(models: Models) -> Mapping[str, nn.Module]:
    named = models if isinstance(models, Mapping) else {"": models}
    if not named or not all(isinstance(name, str) for name in named):
        raise ArgumentError(
            f"Expected a model or models by title, found {'none' if not named else list(named)!r}."
        )
    return named


def _draw(
    models: Mapping[str, nn.Module],
    found: Mapping[str, Sequence[Titled]],
    images: Tensor,
    pictures: Tensor | None,
    titles: Sequence[str],
    saturated: float,
    caption: str,
) -> Figure:
    check_saturated(saturated)
    base = to_show(pictures, images)
    titles = check_titles(titles, len(base))
    lines: list[tuple[str, list[Panel]]] = []
    if len(base) > 1:
        lines.append(("picture", list(map(Panel, base, titles))))
    for name, titled in found.items():
        seen = _crop_to_patches(models[name], images, base)
        for title, value in titled:
            if not bool(value.isfinite().all()):
                raise ArgumentError(
                    f"The attention of {name or 'the model'} ({title}) is not finite. Look for NaN in its "
                    "weights and in the images."
                )
        if len(base) > 1:
            beside = [("\n".join(filter(None, (shorten(name), title))), value) for title, value in titled]
            lines += [(words, _heats(value, seen, saturated)) for words, value in beside]
        else:
            heats = [panel for title, value in titled for panel in _heats(value, seen, saturated, title)]
            panels = [Panel(base[0], titles[0] or "picture"), *heats]
            lines += [
                (shorten(name) if start == 0 else "", panels[start : start + _WIDE])
                for start in range(0, len(panels), _WIDE)
            ]
    return draw_grid(lines, caption=caption)


def _crop_to_patches(model: nn.Module, images: Tensor, base: Tensor) -> Tensor:
    """Return the part of the pictures [b, height, width, 3] that the model's patches cover."""
    size = (images.shape[-2], images.shape[-1])
    height, width = covered_size(find_tower(model), size)
    return base[:, : round(base.shape[1] * height / size[0]), : round(base.shape[2] * width / size[1])]


def _heats(maps: Tensor, seen: Tensor, saturated: float, title: str = "") -> list[Panel]:
    size = (seen.shape[1], seen.shape[2])
    heats = [enlarge(one, size, saturated=saturated) for one in maps.cpu()]
    return [Panel(image, title, heat=heat) for image, heat in zip(seen, heats, strict=True)]
