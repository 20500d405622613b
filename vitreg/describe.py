"""Say what a model is and what can be read in it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vitreg.errors import UnsupportedModelError
from vitreg.extractors import extractors
from vitreg.families import find_tower
from vitreg.types import Tower


@dataclass(frozen=True)
class Description:
    """What `describe` found; `print` it.

    Attributes:
        model: the Vision Transformer's class.
        name: its dotted name inside the model, "" for the model itself.
        attention: the attention classes in its blocks.
        num_blocks: how many blocks.
        num_heads: attention heads in each block, or None where no family knows the attention.
        width: the tokens' width d.
        has_class_token: whether token 0 is a class token.
        num_prefix_tokens: tokens before the patches.
        grid: patches (vertically, horizontally), or None where it is known only at run time.
        extractors: for each extractor "" if it can be read, else why not.
    """

    model: str
    name: str
    attention: tuple[str, ...]
    num_blocks: int
    num_heads: tuple[int | None, ...]
    width: int
    has_class_token: bool
    num_prefix_tokens: int
    grid: tuple[int, int] | None
    extractors: dict[str, str]

    def __str__(self) -> str:
        heads = sorted({"unknown" if h is None else str(h) for h in self.num_heads})
        tokens = "class token" if self.has_class_token else "no class token"
        others = self.num_prefix_tokens - self.has_class_token
        if others:
            tokens += f", {others} other prefix token{'s' if others > 1 else ''}"
        grid = (
            "patch grid known at run time" if self.grid is None else f"{self.grid[0]}×{self.grid[1]} patches"
        )
        place = f" at {self.name!r}" if self.name else ""
        lines = [
            f"{self.model}{place}: {self.num_blocks} blocks of "
            f"{', '.join(self.attention) or 'no attention'}, "
            f"{'/'.join(heads)} heads, width {self.width}",
            f"  tokens: {tokens}, {grid}",
            f"  can be read: {', '.join(n for n, why in self.extractors.items() if not why) or 'nothing'}",
        ]
        lines += [f"  cannot: {name} — {why}" for name, why in self.extractors.items() if why]
        return "\n".join(lines)


def describe(model: nn.Module) -> Description:
    """Return what the Vision Transformer in `model` is: family, blocks, heads, tokens, extractors.

    Raises:
        ArgumentError: `model` is no module, or compiled.
        UnsupportedModelError: no known Vision Transformer is inside.
    """
    tower = find_tower(model)
    return Description(
        model=type(tower.module).__name__,
        name=tower.name,
        attention=tuple(
            dict.fromkeys(type(b.attention).__name__ for b in tower.blocks if b.attention is not None)
        ),
        num_blocks=len(tower.blocks),
        num_heads=tuple(None if b.reading is None else b.reading.num_heads for b in tower.blocks),
        width=tower.width,
        has_class_token=tower.has_class_token,
        num_prefix_tokens=tower.num_prefix_tokens,
        grid=tower.grid,
        extractors={name: _obstacle(name, tower) for name in extractors.names()},
    )


def _obstacle(name: str, tower: Tower) -> str:
    """Return why the extractor cannot read the tower, or "" if it can."""
    try:
        for block in tower.blocks:
            extractors[name].probe(tower, block, "cls")
    except UnsupportedModelError as error:
        return str(error)
    return ""
