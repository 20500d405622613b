"""The weight of the penalty, set as the training runs: by a ratio of gradients, or a bound on the drift."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vitreg.attachment.paired_readings import Readings
from vitreg.errors import ArgumentError, StateError, UnsupportedModelError
from vitreg.functional.shards import sharded_by
from vitreg.layers import resolve_layers
from vitreg.penalties import check_lam, check_positive
from vitreg.types import Lam, Tower

KEPT = ("_factor", "_balanced")
"""What a copy of an attachment keeps of its balance."""


class Balanced(ABC):
    """What an attachment has beside `penalty()`: the same with a weight that follows the training."""

    step: int
    _every: int
    _tower: Tower
    _readings: Readings
    _terms: dict[str, Tensor]
    _factor: Tensor | float = 1.0
    _balanced = 0  # how many balanced penalties were taken
    _lam: Lam

    @property
    def lam(self) -> Lam:
        """λ, a number of at least 0 or a function of the step; it can be set at any time."""
        return self._lam

    @lam.setter
    def lam(self, lam: Lam) -> None:
        check_lam(lam)
        self._lam = lam

    @abstractmethod
    def penalty(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the weighted sum of the penalties."""

    def balance(
        self,
        loss: Tensor,
        *,
        ratio: float | None = None,
        budget: float | None = None,
        interval: int = 10,
        start: int = 10,
        cap: float = 1e3,
        rate: float = 0.1,
        block: int | None = None,
        **given: Any,
    ) -> Tensor:
        r"""Return `penalty()` times a factor that follows the training: add it to `loss` in its place.

        With `ratio` r the penalty's gradient is to be r times as large as the loss's, on the weights of one
        block:

        $$c = r\, \lVert \nabla_\theta \mathcal L \rVert \,/\, \lVert \nabla_\theta P \rVert$$

        with P what `penalty()` returns. It is measured at one of each `interval` calls, which then take a
        second backward pass through a part of the model; until `start` calls were made the factor is 1, as at
        the source the penalty has no gradient.

        With `budget` the drift P is to stay below that bound: the constraint that Eq. (4) of the GTA paper
        relaxes. The factor is its multiplier, which grows while P lies above and falls while it lies below:

        $$c \leftarrow c \exp\!\left(\rho\, \mathrm{clip}(P / \text{budget} - 1, -1, 1)\right)$$

        The factor stays between 1 / `cap` and `cap`, is in `terms["balance"]` for the log, and in
        `state_dict()`. No call waits for the device. Several processes have one factor, from the mean of what
        each measures.

        Args:
            loss: the loss of the same forward pass, a scalar with a gradient, not scaled.
            ratio: r, above 0.
            budget: the bound, above 0, in units of `penalty()`.
            interval: at one of how many calls the ratio is measured.
            start: after how many calls the factor begins to change.
            cap: how far the factor may go, at least 1.
            rate: $\rho$, how fast the multiplier follows.
            block: whose weights are looked at; by default the middle one of the blocks that are read.
            **given: what `penalty()` takes.

        Raises:
            ArgumentError: neither ratio nor budget, both, or one out of range.
            StateError: the loss does not depend on the block's weights; and as `penalty()`.
            UnsupportedModelError: the weights are sharded.

        Source: the constraint is Eq. (4) of Seo et al. 2024, arXiv 2401.02656; the ratio of gradients that of
        Esser et al. 2021 (CVPR), arXiv 2012.09841, where it weighs an adversarial loss.
        """
        if (ratio is None) == (budget is None):
            raise ArgumentError(
                f"Expected either ratio or budget, found {ratio=}, {budget=}. Give one of them."
            )
        for name, number in (("ratio", ratio), ("budget", budget), ("cap", cap), ("rate", rate)):
            if number is not None:
                check_positive(number, name=name)
        if cap < 1 or interval < 1 or start < 0:
            raise ArgumentError(
                f"Expected cap ≥ 1, interval ≥ 1, start ≥ 0; found {cap=}, {interval=}, {start=}."
            )
        value = self.penalty(**given)
        place, self._balanced = self._balanced, self._balanced + 1
        if not value.requires_grad:  # it was not due, or nothing is trained
            return value
        if not isinstance(self._factor, Tensor):
            self._factor = torch.full_like(value, self._factor)
        self._factor = self._factor.to(value.device)
        if ratio is not None and place >= start and (place - start) % interval == 0:
            norms = self._gradient_norms(loss, value, block)
            wanted = ratio * norms[0] / norms[1]
            is_known = wanted.isfinite() & (norms[1] > 0)
            self._factor = torch.where(is_known, wanted, self._factor).clamp(1 / cap, cap)
        elif budget is not None and place >= start:
            excess = (_mean_over_processes(value.detach()) / self._every / budget - 1).clamp(-1, 1)
            grown = self._factor * torch.exp(rate * excess)
            self._factor = torch.where(grown.isfinite(), grown, self._factor).clamp(1 / cap, cap)
        self._terms["balance"] = self._factor.clone()  # so that whoever compares terms sees a new one
        return self._factor * value

    def state_dict(self) -> dict[str, Any]:
        """Return what a training needs to go on as it would have gone: the step and the balance."""
        return {"step": self.step, "balanced": self._balanced, "factor": float(self._factor)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict()` returned.

        Raises:
            ArgumentError: it is something else.
        """
        if set(state) != {"step", "balanced", "factor"} or not 0 < state["factor"] < math.inf:
            raise ArgumentError(f"Expected the state_dict() of an attachment, found {dict(state)!r}.")
        self.step, self._balanced, self._factor = state["step"], state["balanced"], state["factor"]

    def _weights_of(self, block: int | None) -> list[Tensor]:
        """Return the trained weights of a block; by default of the middle one of those that are read."""
        blocks = [[p for p in b.module.parameters() if p.requires_grad] for b in self._tower.blocks]
        if block is not None:
            return list[Tensor](blocks[resolve_layers(block, len(blocks))[0]])
        read = {index for pairs in self._readings.blocks.values() for index in pairs} or range(len(blocks))
        trained = [index for index in sorted(read) if blocks[index]]
        return list[Tensor](blocks[trained[(len(trained) - 1) // 2]]) if trained else []

    def _gradient_norms(self, loss: Tensor, value: Tensor, block: int | None) -> Tensor:
        """Return the norms of both gradients, [2], on the device and in float32."""
        weights = self._weights_of(block)
        sharded = sharded_by(weights)
        if sharded is not None:
            raise UnsupportedModelError(
                f"balance(ratio=…) looks at whole weights, found sharded ones ({sharded}). Use budget=…, or "
                "a weight of your own."
            )
        norms = []
        for name, scalar in (("loss", loss), ("penalty", value)):
            gradients = (
                torch.autograd.grad(scalar, weights, retain_graph=True, allow_unused=True) if weights else ()
            )
            found = [gradient.float() for gradient in gradients if gradient is not None]
            if not found:
                raise StateError(
                    f"balance(ratio=…) needs a {name} that depends on trained weights of one block, found "
                    "none. Name another: balance(…, block=INDEX)."
                )
            norms.append(torch.stack(torch._foreach_norm(found)).norm())
        return _mean_over_processes(torch.stack(norms))


def _mean_over_processes(value: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
