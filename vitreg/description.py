"""Say what a model is and what can be read in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from torch import nn

from vitreg.errors import UnsupportedModelError
from vitreg.extractors import extractors, has_query
from vitreg.families import find_tower
from vitreg.layers import ranges
from vitreg.types import SEVERAL, Query, Tower


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
        has_class_token: whether token 0 is a class token, if only in some blocks.
        num_prefix_tokens: tokens before the patches.
        grid: patches (vertically, horizontally), or None where it is known only at run time.
        queries: for each query of one token the blocks in which its attention can be read; of the attention
            pooling's query, which is in no block, (-1,) if it can be read. Where "mean" can be, so can "all".
        extractors: for each extractor "" if it can be read, with some query where it reads attention, else
            why not.
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
    queries: dict[Query, tuple[int, ...]]
    extractors: dict[str, str]

    def __str__(self) -> str:
        heads = "/".join(sorted({"unknown" if h is None else str(h) for h in self.num_heads}))
        tokens = "class token" if self.has_class_token else "no class token"
        others = self.num_prefix_tokens - self.has_class_token
        if others > 0:
            tokens += f", {others} other prefix token{'s' if others > 1 else ''}"
        grid = (
            "patch grid known at run time" if self.grid is None else f"{self.grid[0]}×{self.grid[1]} patches"
        )
        place = f" at {self.name!r}" if self.name else ""
        lines = [
            f"{self.model}{place}: {self.num_blocks} blocks of "
            f"{', '.join(self.attention) or 'no attention'}, {heads} heads, width {self.width}",
            f"  tokens: {tokens}, {grid}",
            f"  can be read: {', '.join(n for n, why in self.extractors.items() if not why) or 'nothing'}",
        ]
        if any(self.queries.values()):
            asked = (f"{query} ({self._where(blocks)})" for query, blocks in self.queries.items() if blocks)
            lines.append(f"  whose attention: {', '.join(asked)}")
        lines += [f"  cannot: {name} — {why}" for name, why in self.extractors.items() if why]
        return "\n".join(lines)

    def _where(self, blocks: tuple[int, ...]) -> str:
        if blocks == (-1,):
            return "the attention pooling's"
        if len(blocks) == self.num_blocks:
            return "every block"
        return f"block{'s' if len(blocks) > 1 else ''} {ranges(blocks)}"


def describe(model: nn.Module) -> Description:
    """Return what the Vision Transformer in `model` is: family, blocks, heads, tokens, extractors.

    Raises:
        ArgumentError: `model` is no module, or compiled.
        UnsupportedModelError: no known Vision Transformer is inside.
    """
    tower = find_tower(model)
    readable = {query: _blocks_with(query, tower) for query in get_args(Query) if query not in SEVERAL}
    best: Query = next((query for query, blocks in readable.items() if blocks), "cls")
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
        queries=readable,
        extractors={name: _obstacle(name, tower, best) for name in extractors.names()},
    )


def _blocks_with(query: Query, tower: Tower) -> tuple[int, ...]:
    """Return the indices of the blocks in which the query's attention can be read."""
    if query == "pool":
        return (-1,) if tower.pool is not None and tower.pool.reading is not None else ()
    return tuple(i for i, block in enumerate(tower.blocks) if block.reading and has_query(block, query))


def _obstacle(name: str, tower: Tower, query: Query) -> str:
    """Return why the extractor cannot read the tower, or "" if it can."""
    extractor = extractors[name]
    exists = extractor.exists
    blocks = [b for b in tower.blocks if exists is None or exists(b, query)] or tower.blocks
    try:
        for block in blocks:
            extractor.probe(tower, block, query)
    except UnsupportedModelError as error:
        return str(error).partition(":\n")[0]  # the rest is code
    return ""
