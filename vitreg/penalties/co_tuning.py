"""CoTuning: train the source's own head along, on labels that the relation of the classes translates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vitreg.errors import ArgumentError, in_words
from vitreg.functional import cross_entropy_with
from vitreg.penalties.base import GivenPenalty, ReadingPenalty, register_penalty, said_by, source_head
from vitreg.types import Lam, Tower


@register_penalty("co_tuning")
@dataclass(frozen=True, kw_only=True)
class CoTuning(GivenPenalty):
    r"""Make the source's head, on the model's features, predict the source's classes that resemble the label.

    $$-\sum_{y_S} p(y_S \mid y)\, \log \mathrm{softmax}(h_S(f_T))_{y_S}$$

    averaged over the batch, with $f_T$ what the model's head receives, $h_S$ the source's own head, which is
    not trained, and $p(y_S \mid y)$ how probable its classes are where the label is $y$. The labels are
    given: `penalty(labels=labels)`. The source does not run. It must be pre-trained with labels.

    Attributes:
        lam: the weight; the authors use 2.3.
        relation: $p(y_S \mid y)$, [classes, classes of the source], rows that sum to 1; estimate it once on
            the training pictures with `vitreg.measure.class_relation`.

    Source: You et al. 2020 (NeurIPS), "Co-Tuning for Transfer Learning",
    https://github.com/thuml/CoTuning
    """

    # NOTE[DIFF]: the source's head is not trained, so that it stays the one of which the relation was
    # estimated.
    needs: ClassVar[Literal["labels", "masks"]] = "labels"
    runs_source: ClassVar[bool] = False

    lam: Lam = 2.3
    relation: Tensor | None = field(default=None, repr=False, compare=False)
    _head: nn.Module | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        found = self.relation
        if found is not None and not (isinstance(found, Tensor) and found.dim() == 2):
            raise ArgumentError(f"relation is [classes, classes of the source], got {in_words(found)}.")

    @property
    def extractor(self) -> str:
        """The extractor that is read: `features`."""
        return "features"

    def bound(self, model: Tower, source: Tower | None) -> ReadingPenalty:
        """Return this penalty with the source's own head."""
        if self.relation is None:
            raise ArgumentError(
                "CoTuning needs the relation of the classes, found none. Estimate it once: "
                "CoTuning(relation=vitreg.measure.class_relation(source, loader, num_classes))."
            )
        return replace(self, _head=source_head("CoTuning", model, source))

    def value(
        self, target: Sequence[Tensor], source: Sequence[Tensor], given: Sequence[Tensor] = ()
    ) -> Tensor:
        """Return the mean cross-entropy of features [b, d] and labels [b] or [b, classes]; see `bound`."""
        assert self._head is not None
        assert self.relation is not None
        logits = said_by(self._head, target[0])
        relation, (labels,) = self.relation.to(logits, non_blocking=logits.is_cuda), given
        if relation.shape[1] != logits.shape[1]:
            raise ArgumentError(
                f"Expected a relation to the {logits.shape[1]} classes of the source's head, found one to "
                f"{relation.shape[1]}. Estimate it with the same source."
            )
        shares = labels.to(logits) @ relation if labels.is_floating_point() else relation[labels]
        return cross_entropy_with(logits, torch.as_tensor(shares)).mean()
