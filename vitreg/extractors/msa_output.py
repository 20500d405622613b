"""`msa_output`: what a block's multi-head self-attention returns."""

from __future__ import annotations

from vitreg.errors import UnsupportedModelError
from vitreg.extractors.base import register_extractor
from vitreg.extractors.resample import resample_tokens
from vitreg.types import Block, Probe, Query, Tower


@register_extractor("msa_output", resample=resample_tokens)
def msa_output(tower: Tower, block: Block, query: Query) -> Probe:
    """Read the attention's output after its projection, [b, n, d], all tokens.

    It is read before LayerScale, drop path and the residual connection; `query` plays no part.

    Source: Seo et al. 2024 (arXiv 2401.02656), Eq. (3) and Table 3.
    """
    if block.output is None:
        raise UnsupportedModelError(
            f"msa_output needs an attention module; block {block.name!r} of {type(tower.module).__name__} "
            "has none. Read block_output."
        )
    return block.output
