"""`queries`, `keys`, `values`: what enters a block's attention."""

from __future__ import annotations

from vitreg.errors import UnsupportedModelError
from vitreg.extractors.base import register_extractor
from vitreg.types import Block, Probe, Query, Tower


def _can_be_read(block: Block, name: str) -> bool:
    return block.reading is not None and name in block.reading.qkv


@register_extractor("queries", exists=lambda block, query: _can_be_read(block, "queries"))
def queries(tower: Tower, block: Block, query: Query) -> Probe:
    """Read all tokens' queries, [b, h, n, d_head], as they enter attention; `query` plays no part.

    They are read behind their norm and their rotation, and before the logits are scaled.
    """
    return _probe(tower, block, "queries")


@register_extractor("keys", exists=lambda block, query: _can_be_read(block, "keys"))
def keys(tower: Tower, block: Block, query: Query) -> Probe:
    """Read all tokens' keys, [b, h, n, d_head], as they enter attention; `query` plays no part.

    They are read behind their norm and their rotation; keys that several heads share are there for each.
    """
    return _probe(tower, block, "keys")


@register_extractor("values", exists=lambda block, query: _can_be_read(block, "values"))
def values(tower: Tower, block: Block, query: Query) -> Probe:
    """Read all tokens' values, [b, h, n, d_head], which attention averages; `query` plays no part."""
    return _probe(tower, block, "values")


def _probe(tower: Tower, block: Block, name: str) -> Probe:
    if block.reading is None or name not in block.reading.qkv:
        place = f"block {block.name!r} of {type(tower.module).__name__}"
        known = "" if block.reading is None else ", ".join(block.reading.qkv)
        why = block.obstacle or f"its family says nothing of them{f' (but of {known})' if known else ''}."
        raise UnsupportedModelError(
            f"{name} cannot be read in {place}: {why} Read msa_output or block_output."
        )
    return block.reading.qkv[name]
