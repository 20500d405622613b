"""FTP: Fast Trainable Projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitreg.functional.shifts import TINY, Shifts, per_row, shrinkage
from vitreg.projections.base import Projection, State, check_share, register_projection

SMALLEST = 1e-8
"""The radius at first, and at least."""

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of the Adam that learns the radius, as in the authors' code."""


@register_projection("ftp")
@dataclass(frozen=True, kw_only=True)
class FTP(Projection):
    r"""Keep each row within a learnt distance of its start, one distance for each tensor.

    $$\theta'_i \leftarrow \theta_{0,i} + \min\!\left(1, \frac{\gamma}{\lVert \theta'_i - \theta_{0,i}
    \rVert_1}\right) (\theta'_i - \theta_{0,i})$$

    for each row $i$. The radius $\gamma$ is moved by Adam along what the last projection did to the loss,

    $$\nabla \gamma = \sum_i \left\langle g_i, \frac{\theta'_i - \theta_{0,i}}{\lVert \theta'_i - \theta_{0,i}
    \rVert_1} \right\rangle$$

    with $\theta'$ the weights that the last step proposed and $g$ the gradient at those that it was projected
    to. It stays between 1e-8, where it starts, and the largest row. The proposed directions are remembered,
    as many numbers as the model has.

    Attributes:
        lr: of Adam.
        annealing: $\kappa$ from 0 to 1, by which a gradient is multiplied that makes the radius smaller; at 0
            none does.

    Source: Tian et al. 2023 (NeurIPS), "Fast Trainable Projection for Robust Fine-Tuning", arXiv
    2310.19182.
    """

    # NOTE[DIFF]: the authors' code keeps the radii in the order of its calls, so that a parameter without a
    # gradient shifts all that follow, and forgets them when a run is resumed; here they are kept by name.
    reads_gradient: ClassVar[bool] = True

    lr: float = 1e-2
    annealing: float = 1.0

    def __post_init__(self) -> None:
        check_share(self.lr, name="lr")
        check_share(self.annealing, name="annealing")

    def before(self, shifts: Shifts, gradients: Sequence[Tensor], states: Sequence[State]) -> Tensor:
        """Return the radii's gradients, [k]; zero for a tensor that was never projected."""
        directions = [s.get("direction", g.new_zeros(())) for s, g in zip(states, gradients, strict=True)]
        known = [d.expand(g.shape) for d, g in zip(directions, gradients, strict=True)]
        slope = shifts.inner_of(known, gradients)
        return torch.where(slope > 0, self.annealing * slope, slope)

    def shares(self, shifts: Shifts, before: Tensor, states: Sequence[State]) -> Sequence[Tensor]:
        """Return the share of each row, and move the radii."""
        for state, shift in zip(states, shifts.tensors, strict=True):
            if "direction" not in state:
                state["direction"] = torch.empty_like(shift)
        directions = [state["direction"] for state in states]
        rows = shifts.row_norms(places=directions)
        radius, first, second, steps = (
            torch.stack([state[key] if key in state else before.new_tensor(value) for state in states])
            for key, value in (("radius", SMALLEST), ("first", 0.0), ("second", 0.0), ("steps", 0.0))
        )
        steps = steps + 1
        moves = steps > 1  # the first step only sets the radius
        first = torch.where(moves, BETAS[0] * first + (1 - BETAS[0]) * before, first)
        second = torch.where(moves, BETAS[1] * second + (1 - BETAS[1]) * before.square(), second)
        mean, square = first / (1 - BETAS[0] ** steps), second / (1 - BETAS[1] ** steps)
        moved = radius - self.lr * mean / (square.sqrt() + EPSILON)
        moved = torch.minimum(moved, shifts.largest(rows)).clamp(min=SMALLEST)
        radius = torch.where(moves, moved, radius)
        values = {"radius": radius, "first": first, "second": second, "steps": steps}
        for index, state in enumerate(states):
            state.update({key: value[index] for key, value in values.items()})
        lengths, joined = [len(row) for row in rows], torch.cat(rows)  # one call for all rows
        divisors = joined.clamp(min=TINY).split(lengths)
        for direction, shift, divisor in zip(directions, shifts.tensors, divisors, strict=True):
            torch.div(shift, per_row(divisor, shift), out=direction)
        radii = torch.cat([own.expand(length) for own, length in zip(radius, lengths, strict=True)])
        return shrinkage(joined, radii).split(lengths)
