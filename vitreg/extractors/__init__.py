"""Extractors: what can be observed in a Vision Transformer. Importing this package registers them."""

from vitreg.extractors.attn_logits import attn_logits
from vitreg.extractors.attn_probs import attn_probs
from vitreg.extractors.base import (
    Extractor,
    blocks_read,
    check_query,
    extractors,
    has_query,
    list_extractors,
    register_extractor,
)
from vitreg.extractors.block_output import block_output
from vitreg.extractors.features import features
from vitreg.extractors.msa_output import msa_output

__all__ = [
    "Extractor",
    "attn_logits",
    "attn_probs",
    "block_output",
    "blocks_read",
    "check_query",
    "extractors",
    "features",
    "has_query",
    "list_extractors",
    "msa_output",
    "register_extractor",
]
