"""`cls_output`: the class token as a transformer block returns it."""

from __future__ import annotations

from dataclasses import replace

from vitreg.errors import UnsupportedModelError
from vitreg.extractors.base import register_extractor
from vitreg.extractors.block_output import block_output
from vitreg.types import Block, Probe, Query, Tower


@register_extractor("cls_output", exists=lambda block, query: block.has_class_token)
def cls_output(tower: Tower, block: Block, query: Query) -> Probe:
    """Read the class token in the block's output, [b, d]; `query` plays no part."""
    if not block.has_class_token:
        raise UnsupportedModelError(
            f"cls_output needs a class token; block {block.name!r} of {type(tower.module).__name__} has "
            "none. Read pooled_output, the mean of the patches."
        )
    whole = block_output(tower, block, query)
    return replace(whole, read=lambda seen: whole.read(seen)[:, 0])
