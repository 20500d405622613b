"""What changes while a model is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

import vitreg
from vitreg.errors import InputError

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

    `micro_batch` is how many pictures were computed at once in the last one.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    projector: vitreg.Projector | None = None
    attachment: vitreg.Attachment | None = None
    step: int = 0
    micro_batch: int = 0
    log: list[Entry] = field(default_factory=list)
