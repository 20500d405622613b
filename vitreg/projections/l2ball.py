"""L2Ball: weights within a Euclidean distance of their start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vitreg.functional.shifts import Shifts, shrinkage
from vitreg.projections.base import Projection, State, check_radius, register_projection


@register_projection("l2ball")
@dataclass(frozen=True, kw_only=True)
class L2Ball(Projection):
    r"""Keep each tensor within a Euclidean (Frobenius) distance of its start.

    $$\theta' \leftarrow \theta_0 + \min\!\left(1, \frac{\gamma}{\lVert \theta' - \theta_0 \rVert}\right)
    (\theta' - \theta_0)$$

    Attributes:
        radius: the distance $\gamma$, one for all tensors; there is no usual one, so it has to be searched.

    Source: Gouk et al. 2021 (ICLR), "Distance-Based Regularisation of Deep Networks for Fine-Tuning",
    with the Frobenius norm, arXiv 2002.08253.
    """

    # NOTE[DIFF]: the authors constrain the weights of dense and convolutional layers, the scale of batch
    # norms, and the new head around zero; here it is each tensor of the pre-trained model, and no new head.
    radius: float

    def __post_init__(self) -> None:
        check_radius(self.radius)

    def shares(self, shifts: Shifts, before: None, states: Sequence[State]) -> Sequence[Tensor]:
        """Return the share of each tensor, zero within the radius."""
        return shrinkage(shifts.norms(), self.radius).unbind()
