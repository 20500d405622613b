"""LwF: keep what the source's own head says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from vitreg.functional import kl_divergence
from vitreg.penalties.base import (
    ReadingPenalty,
    check_positive,
    register_penalty,
    said_by,
    source_head,
)
from vitreg.types import Lam, Tower


@register_penalty("lwf")
@dataclass(frozen=True, kw_only=True)
class LwF(ReadingPenalty):
    r"""Keep what the source's own head says of the model's features near what it says of the source's.

    $$\tau^2\, \mathrm{KL}\!\left(\mathrm{softmax}(h_S(f_S) / \tau) \,\middle\Vert\,
    \mathrm{softmax}(h_S(f_T) / \tau)\right)$$

    averaged over the batch, with $f$ what the head receives in the model $T$ and in the source $S$, and $h_S$
    the source's own head, which is not trained. The source is the model with its pre-trained head.

    Attributes:
        lam: the weight; the authors' 1 is 0.25 here, as they have no factor $\tau^2$ of 4.
        temperature: $\tau$, above 0; the authors use 2.

    Source: Li and Hoiem 2016 (ECCV), "Learning without Forgetting", arXiv 1606.09282; the
    factor $\tau^2$ is that of Hinton et al. 2015, arXiv 1503.02531.
    """

    # NOTE[DIFF]: it is a divergence, zero at the source; the paper's cross-entropy has the same gradient but
    # for the factor, so that its weight of 1 is 0.25 here.
    # NOTE[DIFF]: the old head is not trained; the paper trains it too.
    lam: Lam = 0.25
    temperature: float = 2.0
    _head: nn.Module | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.temperature, name="temperature")

    @property
    def extractor(self) -> str:
        """The extractor that is read: `features`."""
        return "features"

    def bound(self, model: Tower, source: Tower | None) -> ReadingPenalty:
        """Return this penalty with the source's own head."""
        return replace(self, _head=source_head("LwF", model, source))

    def value(self, target: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
        """Return the mean divergence of what the head says of features, [b, d]; needs to be `bound`."""
        assert self._head is not None
        ours, theirs = said_by(self._head, target[0]), said_by(self._head, source[0].detach())
        return self.temperature**2 * kl_divergence(ours, theirs, temperature=self.temperature).mean()
