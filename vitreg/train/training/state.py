"""What changes while a model is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

import vitreg
from vitreg.errors import InputError
from vitreg.functional.shards import divided_like
from vitreg.train.basics.distributed import is_main
from vitreg.train.basics.sharding import whole

LOG = "log"

Entry = dict[str, float]
"""One line of a run's log: what was noted at a step, by name."""


class Measurement(NamedTuple):
    """What is measured in a training, and every how many steps; "log" for after 1, 2, 4, 8 and so on."""

    every: int | str
    of: Callable[[nn.Module], Entry]

    def is_due(self, steps: int) -> bool:
        """Return whether it is measured after so many steps."""
        return not steps & (steps - 1) if self.every == LOG else steps % int(self.every) == 0


class DivergenceError(InputError):
    """What is trained is no longer finite."""


@dataclass
class Training:
    """What changes while a model is trained, apart from the random states; `step` steps are done.

    `micro_batch` is how many pictures were computed at once in the last one. `given` is the model as it came
    in, from which `model` is another one where its weights are sharded.
    """

    given: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    projector: vitreg.Projector | None = None
    attachment: vitreg.Attachment | None = None
    step: int = 0
    micro_batch: int = 0
    log: list[Entry] = field(default_factory=list)

    def whole_model(self) -> nn.Module:
        """Return the model with whole weights; every process has to ask for it."""
        if self.given is not self.model:
            self.given.load_state_dict(whole(self.model.state_dict()))
        return self.given

    def state_dict(self) -> dict[str, Any]:
        """Return whole weights and optimiser, in the main process; every process has to ask for them."""
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        states: dict[str, Any] = whole(parts, keeps=is_main())
        return states

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned in the main process, of any number of processes."""
        own, optimizer = self.model.state_dict(), states["optimizer"]
        self.model.load_state_dict({n: divided_like(value, own[n]) for n, value in states["model"].items()})
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        states = {
            index: {
                name: divided_like(value, parameters[index]) if getattr(value, "ndim", 0) else value
                for name, value in one.items()
            }
            for index, one in optimizer["state"].items()
        }
        self.optimizer.load_state_dict({**optimizer, "state": states})
