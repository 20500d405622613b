"""`attn_logits`: one query's pre-softmax attention logits over the patches."""

from __future__ import annotations

from dataclasses import replace

from vitreg.extractors.base import reading_of, register_extractor
from vitreg.extractors.resample import resample_row
from vitreg.types import Block, Probe, Query, Tower


@register_extractor("attn_logits", of_attention=True, resample=resample_row)
def attn_logits(tower: Tower, block: Block, query: Query) -> Probe:
    """Read the query's logits over the patches, [b, h, p], in float32; prefix tokens' keys are dropped.

    Of a query that is m tokens ("registers", "all") they are [b, h, m, p].

    Source: Seo et al. 2024 (arXiv 2401.02656), Eqs. (2) and (4).
    """
    # NOTE[DIFF]: the paper drops the class token's own key; keys of registers and of a distillation token,
    # which its models do not have, are dropped too.
    probe, num_prefix = reading_of(tower, block, query, "attn_logits")
    return replace(probe, read=lambda seen: probe.read(seen)[..., num_prefix:])
