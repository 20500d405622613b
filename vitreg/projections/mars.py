"""MARS: weights within a distance of their start, by the largest absolute row sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vitreg.functional.shifts import Shifts, shrinkage
from vitreg.projections.base import Projection, State, check_radius, register_projection


@register_projection("mars")
@dataclass(frozen=True, kw_only=True)
class MARS(Projection):
    r"""Keep each weight matrix within a distance of its start, by the maximum absolute row sum.

    $$\theta' \leftarrow \theta_0 + \min\!\left(1, \frac{\gamma}{\max_i \sum_j |\theta'_{ij} - \theta_{0,ij}|}
    \right) (\theta' - \theta_0)$$

    Biases, norms and other tensors of one dimension are free.

    Attributes:
        radius: the distance $\gamma$, one for all matrices; there is no usual one, so it has to be searched.

    Source: Gouk et al. 2021 (ICLR), "Distance-Based Regularisation of Deep Networks for Fine-Tuning",
    arXiv 2002.08253.
    """

    # NOTE[DIFF]: the authors' code scales each row by its own sum; the paper, and this, the whole matrix.
    # The code also constrains the scale of batch norms, and the new head around zero.
    radius: float

    def __post_init__(self) -> None:
        check_radius(self.radius)

    def selects(self, name: str, parameter: Tensor) -> bool:
        """Return whether `parameter` is a weight: of two or more dimensions, whose first are the rows."""
        return parameter.dim() >= 2

    def shares(self, shifts: Shifts, before: None, states: Sequence[State]) -> Sequence[Tensor]:
        """Return the share of each matrix, zero within the radius."""
        return shrinkage(shifts.largest(shifts.row_norms()), self.radius).unbind()
