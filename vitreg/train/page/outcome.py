"""What a fine-tuning came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitreg.train.choice import Choice, Standing
from vitreg.train.runs.report import Report
from vitreg.train.trials import PROBE, Trial


@dataclass(frozen=True)
class Outcome:
    """What was trained and delivered.

    Attributes:
        trial: how the fine-tuned model was trained.
        report: of the delivered model.
        probe: the linear probe's report.
        fine_tuned: the fine-tuned model's.
        choice: why the one or the other is delivered, or None where it was not chosen.
        searched: how the trials of a search did, the best first.
        losses: what the fine-tuned model's losses say, in a sentence, or None where nothing was trained.
    """

    trial: Trial
    report: Report
    probe: Report
    fine_tuned: Report
    choice: Choice | None
    searched: Sequence[Standing]
    losses: str | None

    @property
    def kind(self) -> str:
        """The delivered model, in words."""
        return str(PROBE) if self.report is self.probe else f"fine-tuned: {self.trial}"
