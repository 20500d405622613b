"""SPD: Selective Projection Decay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vitreg.functional.shifts import Shifts, shrinkage
from vitreg.projections.base import Projection, State, check_share, register_projection


@register_projection("spd")
@dataclass(frozen=True, kw_only=True)
class SPD(Projection):
    r"""Pull a tensor back only where gradient descent itself leads back to the start (selective decay).

    Where $\langle g, \theta - \theta_0 \rangle > 0$, with $g$ the gradient and $\theta$ the tensor before the
    step, $\theta'$ after it:

    $$\theta' \leftarrow \theta' - s \cdot \mathrm{clip}\!\left(\frac{\lVert \theta' - \theta_0 \rVert -
    \lVert \theta - \theta_0 \rVert}{\lVert \theta' - \theta_0 \rVert}, 0, 1\right) (\theta' - \theta_0)$$

    It takes the place of weight decay: switch the optimiser's own off.

    Attributes:
        strength: $s$, from 0 to 1; 1 is a full projection onto the radius before the step.

    Source: Tian et al. 2024 (NeurIPS), "Rethinking Weight Decay for Robust Fine-Tuning of Foundation Models",
    Algorithm 2, arXiv 2411.01713.
    """

    # NOTE[DIFF]: the authors' optimiser pairs a tensor with its start by the position in a parameter group,
    # and holds the new head at its random start; here pairs are by name, and a new head is left alone.
    reads_gradient: ClassVar[bool] = True

    strength: float = 1.0

    def __post_init__(self) -> None:
        check_share(self.strength, name="strength")

    def before(
        self, shifts: Shifts, gradients: Sequence[Tensor], states: Sequence[State]
    ) -> tuple[Tensor, Tensor]:
        """Return the radius of each tensor, and whether the gradient points away from the start."""
        return shifts.norms(), shifts.inner(gradients) > 0

    def shares(
        self, shifts: Shifts, before: tuple[Tensor, Tensor], states: Sequence[State]
    ) -> Sequence[Tensor]:
        """Return the share of each tensor, zero where it is not selected."""
        radius, is_selected = before
        return (self.strength * shrinkage(shifts.norms(), radius) * is_selected).unbind()
