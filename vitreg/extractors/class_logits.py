"""`class_logits`: what the model's own head says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.errors import UnsupportedModelError
from vitreg.extractors.base import register_extractor
from vitreg.functional.first_tensor import first_tensor
from vitreg.types import Block, Probe, Query, Tap, Tower


@register_extractor("class_logits", per_block=False)
def class_logits(tower: Tower, block: Block, query: Query) -> Probe:
    """Read the logits of the tower's own head, [b, classes]; of several heads (distillation) their mean.

    A head of another kind, such as one for each patch, is not among them.
    """
    name = type(tower.module).__name__
    heads = {head: tower.module.get_submodule(head) for head in tower.heads}
    if not heads or all(isinstance(head, nn.Identity) for head in heads.values()):
        raise UnsupportedModelError(
            f"class_logits needs a classifier inside {name}; it has none (that of open_clip and of "
            "transformers is outside of the tower). Read features."
        )

    def read(seen: Mapping[str, Any]) -> Tensor:
        first, *others = (
            first_tensor(
                seen[head],
                what="class_logits",
                returned_by=f"the head {head!r} of {name}",
                remedy="Read features.",
            )
            for head in heads
        )
        alike = [first, *(other for other in others if other.shape == first.shape)]
        return torch.stack(alike).mean(0) if len(alike) > 1 else first

    return Probe({head: Tap(module) for head, module in heads.items()}, read)
