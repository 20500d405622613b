"""What an extractor is, and their registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import get_args

from vitreg.errors import ArgumentError, UnsupportedModelError
from vitreg.functional import cls_row, mean_row
from vitreg.registry import Registry
from vitreg.types import AttentionReading, Block, Probe, Query, Row, Tower

MakeProbe = Callable[[Tower, Block, Query], Probe]


@dataclass(frozen=True)
class Extractor:
    """Something that can be observed in a Vision Transformer.

    Attributes:
        probe: from the tower, one of its blocks and the query, how the value is read.
        per_block: whether there is one value a block; otherwise one value a forward pass.
    """

    probe: MakeProbe
    per_block: bool = True


extractors: Registry[Extractor] = Registry("extractor")


def register_extractor(name: str, *, per_block: bool = True) -> Callable[[MakeProbe], MakeProbe]:
    """Return a decorator that registers a function `(tower, block, query) -> Probe` as an extractor.

    An extractor with `per_block=False` is read once a forward pass; its function gets the last block.

    Raises:
        ArgumentError: the name is taken or is no identifier.
    """

    def decorate(probe: MakeProbe) -> MakeProbe:
        extractors.add(name, Extractor(probe, per_block))
        return probe

    return decorate


def list_extractors() -> list[str]:
    """Return the names of the registered extractors, sorted."""
    return extractors.names()


def reading_of(tower: Tower, block: Block, extractor: str) -> AttentionReading:
    """Return how `block` computes attention; raises `UnsupportedModelError` if no family knows it."""
    if block.obstacle:
        raise UnsupportedModelError(f"{extractor} cannot be read in block {block.name!r}: {block.obstacle}")
    if block.reading is None:
        found = "no attention module" if block.attention is None else _qualified(block.attention)
        raise UnsupportedModelError(
            f"{extractor} needs attention of a known family; block {block.name!r} of "
            f"{type(tower.module).__name__} has {found}. block_output needs none; or register the class "
            "with `@vitreg.register_family`."
        )
    return block.reading


def row_of(tower: Tower, query: Query, extractor: str) -> Row:
    """Return the function that picks the query; raises `UnsupportedModelError` without a class token."""
    if query == "mean":
        return partial(mean_row, num_prefix_tokens=tower.num_prefix_tokens)
    if query not in get_args(Query):
        raise ArgumentError(f"query must be one of {get_args(Query)}, got {query!r}.")
    if not tower.has_class_token:
        raise UnsupportedModelError(
            f"{extractor} with query='cls' needs a class token; {type(tower.module).__name__} has none. "
            "Use query='mean' (the mean of the patches' queries), or read block_output."
        )
    return cls_row


def _qualified(module: object) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
