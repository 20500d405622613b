"""`pooled_output`: the mean of the patches as a transformer block returns them."""

from __future__ import annotations

from dataclasses import replace

from vitreg.extractors.base import register_extractor
from vitreg.extractors.patch_output import has_patches, patch_output
from vitreg.types import Block, Probe, Query, Tower


@register_extractor("pooled_output", exists=has_patches)
def pooled_output(tower: Tower, block: Block, query: Query) -> Probe:
    """Read the mean of the patches in the block's output, [b, d]; `query` plays no part."""
    patches = patch_output(tower, block, query)
    return replace(patches, read=lambda seen: patches.read(seen).mean(1))
