"""What a fine-tuning came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from vitreg.train.choice import Choice, Standing
from vitreg.train.models.stored import Card
from vitreg.train.runs.report import Report
from vitreg.train.trials import PROBE, Trial


@dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning left behind.

    Attributes:
        model: the delivered model, in eval mode.
        card: what it takes to use it: architecture, size, mean, deviation, class names.
        report: the delivered model's configuration, metrics and log.
        probe: the linear probe's.
        fine_tuned: the fine-tuned model's.
        trial: how the fine-tuned model was trained.
        choice: why the one or the other is delivered, or None where it was not chosen.
        searched: how the trials of a search did, the best first.
        losses: what the fine-tuned model's losses say, in a sentence, or None where nothing was trained.
        probabilities: of the measured pictures, by the delivered model, float32 [pictures, classes].
        out: the folder of all files.
    """

    model: nn.Module
    card: Card
    report: Report
    probe: Report
    fine_tuned: Report
    trial: Trial
    choice: Choice | None
    searched: Sequence[Standing]
    losses: str | None
    probabilities: Tensor
    out: Path

    @property
    def kind(self) -> str:
        """The delivered model, in words."""
        return str(PROBE) if self.report is self.probe else f"fine-tuned: {self.trial}"
