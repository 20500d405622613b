"""`attn_probs`: one query's attention after the softmax, over the patches."""

from __future__ import annotations

from dataclasses import replace

from vitreg.extractors.base import reading_of, register_extractor
from vitreg.extractors.resample import resample_share
from vitreg.types import Block, Probe, Query, Tower


@register_extractor("attn_probs", of_attention=True, resample=resample_share)
def attn_probs(tower: Tower, block: Block, query: Query) -> Probe:
    """Read the query's attention over the patches, [b, h, p], in float32, before dropout.

    The softmax runs over all tokens, so a row sums to 1 less what the prefix tokens receive. With
    query="mean" it is the softmax of the mean query's logits.
    """
    probe, num_prefix = reading_of(tower, block, query, "attn_probs")
    return replace(probe, read=lambda seen: probe.read(seen).softmax(-1)[..., num_prefix:])
