"""What an extractor is, and their registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from vitreg.errors import ArgumentError, UnsupportedModelError
from vitreg.functional import cls_row, mean_row
from vitreg.layers import resolve_layers
from vitreg.registry import Registry
from vitreg.types import SEVERAL, AttentionReading, Block, Grid, Layers, Probe, Query, Row, Tower
from vitreg.wording import type_and_value

MakeProbe = Callable[[Tower, Block, Query], Probe]

Resample = Callable[[Tensor, Block, Grid, Grid], Tensor]
"""From a value, its block and its patch grid to the same value on another patch grid."""


@dataclass(frozen=True)
class Extractor:
    """Something that can be observed in a Vision Transformer.

    Attributes:
        probe: from the tower, one of its blocks and the query, how the value is read.
        per_block: whether there is one value a block; otherwise one value a forward pass.
        of_attention: whether the value is a query's attention, [b, h, p], so that `query` matters; of m
            tokens it is [b, h, m, p].
        resample: how a value is brought to another patch grid, or None where it cannot be.
        has_prefix: whether the prefix tokens are among its tokens, [b, n, d], or only the patches.
        exists: whether a block has it, as far as is known, or None where each has.
    """

    probe: MakeProbe
    per_block: bool = True
    of_attention: bool = False
    resample: Resample | None = None
    has_prefix: bool = True
    exists: Callable[[Block, Query], bool] | None = None


extractors: Registry[Extractor] = Registry("extractor")


def register_extractor(
    name: str,
    *,
    per_block: bool = True,
    of_attention: bool = False,
    resample: Resample | None = None,
    has_prefix: bool = True,
    exists: Callable[[Block, Query], bool] | None = None,
) -> Callable[[MakeProbe], MakeProbe]:
    """Return a decorator that registers a function `(tower, block, query) -> Probe` as an extractor.

    Args:
        name: what it is called in `attach` and `trace`.
        per_block: one value a block; otherwise one a forward pass, and the function gets the last block.
        of_attention: the value is one query's attention, [b, h, p]; `layers="all"` then means the blocks that
            have this query.
        resample: `(value, block, from_grid, to_grid) -> value`, for `align="resample"`.
        has_prefix: whether the prefix tokens are among its tokens, [b, n, d], or only the patches.
        exists: whether a block has it; `layers="all"` then means the blocks that have. None where each has.

    Raises:
        ArgumentError: the name is taken or is no identifier.
    """

    def decorate(probe: MakeProbe) -> MakeProbe:
        known = has_query if of_attention else exists
        extractors.add(name, Extractor(probe, per_block, of_attention, resample, has_prefix, known))
        return probe

    return decorate


def list_extractors() -> list[str]:
    """Return the names of the registered extractors, sorted."""
    return extractors.names()


def check_query(query: object) -> None:
    """Raise `ArgumentError` unless `query` is a known one."""
    if query not in get_args(Query):
        raise ArgumentError(f"query must be one of {get_args(Query)}, got {query!r}.")


def has_query(block: Block, query: Query) -> bool:
    """Return whether the query's attention exists in `block`, as far as is known."""
    if query == "cls" and not block.has_class_token:
        return False
    if query == "registers" and block.num_prefix_tokens <= block.has_class_token:
        return False
    asked = "mean" if query in SEVERAL else query  # whose patches ask has a row for each token
    return block.reading is None or asked in block.reading.queries


def blocks_read(name: str, layers: Layers, query: Query, tower: Tower) -> tuple[int, ...]:
    """Return the indices of the blocks that the extractor `name` reads in `tower`.

    Of attention, "all" means the blocks that have the query: a class token may join in the last ones only.

    Raises:
        ArgumentError: an unknown extractor, `layers` that select nothing, or `layers` for an extractor that
            has one value a forward pass.
    """
    if not isinstance(name, str):
        raise ArgumentError(f"An extractor is named by a string, got {type_and_value(name)}.")
    depth = len(tower.blocks)
    extractor = extractors[name]
    if not extractor.per_block or (extractor.of_attention and query == "pool"):
        if layers != "all":
            what = name if not extractor.per_block else f"{name} with query='pool'"
            raise ArgumentError(f"{what} has one value a forward pass and takes no layers, got {layers!r}.")
        return (depth - 1,)
    if extractor.exists is not None and isinstance(layers, str):
        some = [i for i, block in enumerate(tower.blocks) if extractor.exists(block, query)]
        some = some or list(range(depth))  # none: the extractor says what is possible instead
        return tuple(some[i] for i in resolve_layers(layers, len(some)))
    return resolve_layers(layers, depth)


def reading_of(tower: Tower, block: Block, query: Query, extractor: str) -> tuple[Probe, int]:
    """Return how the query's logits over all keys are read, and how many of these keys are no patches.

    They are [b, h, n], or [b, h, m, n] for a query that is m tokens.

    Raises:
        UnsupportedModelError: no family knows the attention, or it has no such query.
    """
    check_query(query)
    if query == "pool":
        if tower.pool is None:
            raise UnsupportedModelError(
                f"{extractor} with query='pool' needs an attention pooling; {_name(tower)} has none. "
                f"{_instead(tower)}"
            )
        block = tower.pool
    elif not has_query(block, query):
        raise UnsupportedModelError(_no_query(tower, block, query, extractor))
    if block.reading is None:
        found = block.obstacle or "it has no attention module."
        raise UnsupportedModelError(f"{extractor} cannot be read in block {block.name!r}: {found}")
    reading, prefix = block.reading, block.num_prefix_tokens
    row: Row = partial(mean_row, num_prefix_tokens=prefix) if query == "mean" else cls_row

    def read(seen: Mapping[str, Any]) -> Tensor:
        if query not in SEVERAL:
            return reading.logits(seen, row)
        return rows_of(reading, seen, range(block.has_class_token, prefix) if query == "registers" else None)

    return Probe(reading.taps, read, reading.copied), prefix


def rows_of(
    reading: AttentionReading, seen: Mapping[str, Any], tokens: Sequence[int] | None = None
) -> Tensor:
    """Return the logits of several tokens, [b, h, m, n], from what the taps delivered; None means all tokens.

    Every family knows one row, so it takes one product a token: some hundred times that of the class token's.
    """

    def row_of(token: int) -> Tensor:
        return reading.logits(seen, lambda tensor, dim: tensor.select(dim, token))

    if tokens is not None:
        return torch.stack([row_of(token) for token in tokens], dim=2)
    first = row_of(0)
    return torch.stack([first, *map(row_of, range(1, first.shape[-1]))], dim=2)


def _no_query(tower: Tower, block: Block, query: Query, extractor: str) -> str:
    what = {"cls": "a class token", "registers": "prefix tokens beside the class token"}.get(
        query, "patches that ask"
    )
    others = [i for i, other in enumerate(tower.blocks) if has_query(other, query)]
    if others:
        return (
            f"{extractor} with query={query!r} needs {what}; block {block.name!r} of {_name(tower)} has "
            f"none. layers={others} have."
        )
    return f"{extractor} with query={query!r} needs {what}; {_name(tower)} has none. {_instead(tower)}"


def _instead(tower: Tower) -> str:
    possible = [
        words
        for words, exists in (
            ("query='cls'", any(b.reading and has_query(b, "cls") for b in tower.blocks)),
            (
                "query='mean' (the mean of the patches' queries)",
                any(b.reading and has_query(b, "mean") for b in tower.blocks),
            ),
            ("query='pool' (the attention pooling's query)", tower.pool is not None),
        )
        if exists
    ]
    if possible:
        return f"Use {' or '.join(possible)}, or read block_output."
    return next((block.obstacle for block in tower.blocks if block.obstacle), "Read block_output.")


def _name(tower: Tower) -> str:
    return type(tower.module).__name__
