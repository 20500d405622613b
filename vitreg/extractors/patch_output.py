"""`patch_output`: the patches as a transformer block returns them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from vitreg.errors import UnsupportedModelError
from vitreg.extractors.base import register_extractor
from vitreg.extractors.block_output import block_output
from vitreg.extractors.resample import resample_patches
from vitreg.types import Block, Probe, Query, Tower


def has_patches(block: Block, query: Query) -> bool:
    """Return whether the block returns patches: one that updates its class token alone may not."""
    return block.reading is None or "mean" in block.reading.queries


@register_extractor("patch_output", resample=resample_patches, has_prefix=False, exists=has_patches)
def patch_output(tower: Tower, block: Block, query: Query) -> Probe:
    """Read the patches in the block's output, [b, p, d], without prefix tokens; `query` plays no part."""
    name = type(tower.module).__name__
    if not has_patches(block, query):
        raise UnsupportedModelError(
            f"patch_output needs a block that updates its patches; block {block.name!r} of {name} updates "
            "its class token alone. Read cls_output, or other layers."
        )
    if block.grid is None and tower.patch_size is None:
        raise UnsupportedModelError(
            f"patch_output needs a known patch grid; that of block {block.name!r} of {name} is not known. "
            "Read block_output."
        )
    whole = block_output(tower, block, query)

    def read(seen: Mapping[str, Any]) -> Tensor:
        tokens = whole.read(seen)
        if tokens.dim() != 3:
            raise UnsupportedModelError(
                f"patch_output is read where a block returns tokens [b, n, d]; {block.name!r} of {name} "
                f"returned {list(tokens.shape)}. Read block_output."
            )
        return tokens[:, block.num_prefix_tokens :]

    return replace(whole, read=read)
