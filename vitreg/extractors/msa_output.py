"""`msa_output`: what a block's multi-head self-attention returns."""

from __future__ import annotations

from vitreg.extractors.base import reading_of, register_extractor
from vitreg.types import Block, Probe, Query, Tap, Tower


@register_extractor("msa_output")
def msa_output(tower: Tower, block: Block, query: Query) -> Probe:
    """Read the attention's output after its projection, [b, n, d], all tokens.

    It is read before LayerScale, drop path and the residual connection; `query` plays no part.

    Source: Seo et al. 2024 (arXiv 2401.02656), Eq. (3) and Table 3.
    """
    reading = reading_of(tower, block, "msa_output")
    assert block.attention is not None
    return Probe({"output": Tap(block.attention)}, lambda seen: reading.output(seen["output"]))
