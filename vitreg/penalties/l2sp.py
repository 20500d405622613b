"""L2-SP: keep the weights near their starting point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vitreg.errors import ArgumentError
from vitreg.functional import half_squared_norm
from vitreg.penalties.base import ParameterPenalty, check_lam, register_penalty
from vitreg.types import Lam


@register_penalty("l2sp")
@dataclass(frozen=True, kw_only=True)
class L2SP(ParameterPenalty):
    r"""Keep the weights near where they started, and the new head's near zero.

    $$\frac12 \lVert \theta - \theta_0 \rVert^2 + \frac{\beta}{\alpha} \frac12 \lVert w \rVert^2$$

    with $\theta$ the model's weights, $\theta_0$ the source's, $w$ the new head's, $\alpha$ = `lam` and
    $\beta$ = `head * lam`. Only parameters that are trained take part. Switch the optimiser's own weight
    decay off, as the authors do.

    Pulled to the start are the weights of the Vision Transformer. The new head is its classifier and what
    stands beside it in a module of yours. What is known to come pre-trained is neither: the rest of a CLIP
    model, what transformers puts beside a vision tower (except for a classifier), other models of timm,
    torchvision or transformers. Where that is not so, name the head: `attach(..., new_head="classifier")`,
    or `new_head=()` where there is none. While all is frozen, the penalty is zero.

    Attributes:
        lam: the weight $\alpha$; the authors use 0.1.
        head: the weight of the new head's term relative to `lam`; the authors' $\beta$ of 0.01 is 0.1.
        biases: penalise every parameter. By default only those of two or more dimensions: the weights, not
            the biases and the norms, as in the authors' code.

    Source: Li et al. 2018 (ICML), "Explicit Inductive Bias for Transfer Learning with Convolutional
    Networks", arXiv 1802.01483.
    """

    # NOTE[DIFF]: a ViT's class token and position embedding have two or more dimensions and count as weights;
    # the convolutional networks of the paper have neither.
    takes_shards: ClassVar[bool] = True

    lam: Lam = 0.1
    head: float = 0.1
    biases: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if callable(self.head):
            raise ArgumentError(
                f"head must be a number (relative to lam, which may be a function), got {self.head!r}."
            )
        check_lam(self.head, name="head")

    def selects(self, name: str, parameter: Tensor) -> bool:
        """Return whether `parameter` is a weight, or whether all count."""
        return self.biases or parameter.dim() >= 2

    def value(self, parameters: Sequence[Tensor], start: Sequence[Tensor], head: Sequence[Tensor]) -> Tensor:
        """Return half the squared distance to the start, plus the head's weighted half squared norm."""
        terms = []
        if parameters:
            terms.append(half_squared_norm(parameters, start))
        if head:
            terms.append(self.head * half_squared_norm(head))
        return sum(terms[1:], terms[0])
