"""What the files on timm's classes share: where a block, a patch embedding and a pooling keep their parts."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

from torch import nn

from vitreg.families.registries import BlockParts, families


def block_parts(block: Any) -> BlockParts:
    """Return a block's parts; a parallel block computes attention itself, and is its own attention module."""
    inside = block if families.find(block) is not None else None
    return BlockParts(
        block, getattr(block, "attn", inside), getattr(block, "mlp", None) or getattr(block, "ffns", None)
    )


def pooling(model: Any, *, has_class_token: bool) -> BlockParts | None:
    """Return the attention pooling of `model`, or None; it sees the patches or, as in `Eva`, all tokens."""
    pool = getattr(model, "attn_pool", None)
    if pool is None:
        return None
    if getattr(model, "pool_include_prefix", True):
        return BlockParts(
            pool, pool, num_prefix_tokens=model.num_prefix_tokens, has_class_token=has_class_token
        )
    return BlockParts(pool, pool, num_prefix_tokens=0, has_class_token=False)


def pixels_per_patch(embed: Any) -> tuple[int, int] | None:
    """Return a patch's height and width in pixels, also behind a convolutional stem.

    None where patches do not tile the picture: it is padded, or of a fixed size with pixels left over.
    """
    if getattr(embed, "dynamic_img_pad", False) or not hasattr(embed, "feat_ratio"):
        return None
    return None if pixels_covered(embed) is not None else pair(embed.feat_ratio(as_scalar=False))


def pixels_covered(embed: Any) -> tuple[int, int] | None:
    """Return the height and width that the patches cover of a picture of fixed size with pixels left over.

    None where none are left over, or where that is not known.
    """
    fixed = getattr(embed, "img_size", None) if getattr(embed, "strict_img_size", True) else None
    if fixed is None or getattr(embed, "dynamic_img_pad", False) or not hasattr(embed, "feat_ratio"):
        return None
    patch = pair(embed.feat_ratio(as_scalar=False))
    height, width = (side // length * length for side, length in zip(fixed, patch, strict=True))
    return None if (height, width) == tuple(fixed) else (height, width)


def pair(size: Any) -> tuple[int, int]:
    """Return a height and a width as a tuple of integers."""
    return int(size[0]), int(size[1])


def parameters_in(model: nn.Module, *places: str) -> tuple[str, ...]:
    """Return the names of the parameters that are one of `places` or inside it, as far as they exist."""
    return tuple(
        name
        for name, _ in model.named_parameters()
        if any(name == place or name.startswith(f"{place}.") for place in places)
    )


def existing(module: str, *names: str) -> Iterator[type[nn.Module]]:
    """Yield those of the classes `names` in timm's `module` that this version of timm has."""
    if importlib.util.find_spec(module) is not None:
        found = importlib.import_module(module)
        yield from (getattr(found, name) for name in names if hasattr(found, name))
