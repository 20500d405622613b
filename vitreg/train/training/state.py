"""What changes while a model is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

import vitreg
from vitreg.errors import InputError

Entry = dict[str, float]
"""One line of a run's log: what was noted at a step, by name."""


class Measurement(NamedTuple):
    """What is measured in the course of a training, and every how many steps."""

    every: int
    of: Callable[[nn.Module], Entry]


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
    step: int = 0
    micro_batch: int = 0
    log: list[Entry] = field(default_factory=list)
