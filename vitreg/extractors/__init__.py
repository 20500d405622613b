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
    rows_of,
)
from vitreg.extractors.block_output import block_output
from vitreg.extractors.class_logits import class_logits
from vitreg.extractors.cls_output import cls_output
from vitreg.extractors.features import features
from vitreg.extractors.msa_output import msa_output
from vitreg.extractors.patch_output import patch_output
from vitreg.extractors.pooled_output import pooled_output
from vitreg.extractors.queries_keys_values import keys, queries, values

__all__ = [
    "Extractor",
    "attn_logits",
    "attn_probs",
    "block_output",
    "blocks_read",
    "check_query",
    "class_logits",
    "cls_output",
    "extractors",
    "features",
    "has_query",
    "keys",
    "list_extractors",
    "msa_output",
    "patch_output",
    "pooled_output",
    "queries",
    "register_extractor",
    "rows_of",
    "values",
]
