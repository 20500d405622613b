"""Pictures that a tower may be made for, as its patch embedding, attributes and tables suggest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_SIZES = ("image_size", "img_size", "input_resolution", "input_size", "resolution")
_PATCHES = ("patch_size",)
_USUAL = (224, 256, 384, 32)


def picture_shapes(tower: nn.Module, chain: set[str]) -> Iterator[tuple[int, int, int]]:
    """Yield shapes [c, height, width] of pictures, the likeliest first; `chain` names the blocks' modules."""
    outside = [m for name, m in tower.named_modules() if name not in chain]
    channels = list(dict.fromkeys([*_channels(outside), 3, 1]))[:2]
    patches = patch_sizes(tower, chain)
    sides: list[tuple[int, int]] = []
    for module in outside:
        for place in (module, getattr(module, "config", None)):
            sides += [s for name in _SIZES if (s := pair_of(getattr(place, name, None))) and min(s) > 1]
    for height, width in patches:
        for count in _table_lengths(outside):
            side = math.isqrt(max(count, 0))
            if side > 1 and side * side == count:
                sides.append((side * height, side * width))
    for side in _USUAL:
        sides += [(side // p * p, side // q * q) for p, q in patches if side >= 2 * max(p, q)] or [
            (side, side)
        ]
    for c in channels:
        yield from ((c, *side) for side in dict.fromkeys(sides))


def patch_sizes(tower: nn.Module, chain: set[str]) -> list[tuple[int, int]]:
    """Return the sizes of a patch in pixels that modules outside the chain suggest, the likeliest first."""
    found: list[tuple[int, int]] = []
    for name, module in tower.named_modules():
        if name in chain:
            continue
        if isinstance(module, nn.Conv2d) and module.stride == module.kernel_size and module.stride[0] > 1:
            found.append((module.stride[0], module.stride[1]))
        axes: Any = getattr(module, "axes_lengths", None)  # einops' Rearrange
        if isinstance(axes, dict) and {"p1", "p2"} <= axes.keys():
            found.append((axes["p1"], axes["p2"]))
        for place in (module, getattr(module, "config", None)):
            found += [s for name in _PATCHES if (s := pair_of(getattr(place, name, None))) and min(s) > 1]
    return list(dict.fromkeys(found))


def pair_of(size: Any) -> tuple[int, int] | None:
    """Return a height and a width, of a number or of two, or None."""
    if isinstance(size, int) and not isinstance(size, bool):
        return size, size
    if isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(s, int) for s in size):
        return size[0], size[1]
    return None


def _channels(modules: list[nn.Module]) -> Iterator[int]:
    for module in modules:
        if isinstance(module, nn.Conv2d):
            yield module.in_channels
            return
        for name in ("in_chans", "in_channels", "num_channels"):
            if isinstance(getattr(module, name, None), int):
                yield getattr(module, name)


def _table_lengths(modules: list[nn.Module]) -> Iterator[int]:
    """Yield how many patches a table of positions is for: its length without up to eight prefix tokens."""
    lengths: list[int] = []
    for module in modules:
        tables = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        tables += [value for value in vars(module).values() if isinstance(value, Tensor)]
        lengths += [t.shape[-2] for t in tables if t.dim() in (2, 3) and t.shape[-2] > 1]
    for length in dict.fromkeys(lengths):
        yield from (length - prefix for prefix in (1, 0, *range(2, 9)))


def draw_pictures(shape: Sequence[int], like: Tensor, count: int) -> Tensor:
    """Return random pictures [count, c, height, width] with the device and type of `like`."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *shape, generator=generator).to(like)


def like_pictures(tower: nn.Module) -> Tensor:
    """Return a tensor with the device and type of the pictures that `tower` takes: its first layer's."""
    layers = (m.weight for m in tower.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    return next(layers, next(tower.parameters()))
