"""`block_output`: what a transformer block returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitreg.extractors.base import register_extractor
from vitreg.extractors.resample import resample_tokens
from vitreg.functional.first_tensor import first_tensor
from vitreg.types import Block, Probe, Query, Tap, Tower


@register_extractor("block_output", resample=resample_tokens)
def block_output(tower: Tower, block: Block, query: Query) -> Probe:
    """Read the block's output, [b, n, d], all tokens; `query` plays no part.

    Source: Seo et al. 2024 (arXiv 2401.02656), Table 3.
    """
    if block.whole is not None:
        return block.whole

    def read(seen: Mapping[str, Any]) -> Tensor:
        output = first_tensor(
            seen["output"],
            what="block_output",
            returned_by=f"block {block.name!r} ({type(block.module).__name__})",
            remedy="Read msa_output, or say in `BlockParts(whole=…)` of its tower how it is read.",
        )
        return output if tower.batch_first else output.transpose(0, 1)

    return Probe({"output": Tap(block.module)}, read)
