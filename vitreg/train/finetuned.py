"""What a fine-tuning came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from vitreg.train.choice import Choice, Standing, interval, paired_difference
from vitreg.train.data.test_sets import TestSet
from vitreg.train.models.stored import Card
from vitreg.train.runs.report import Report
from vitreg.train.trials import PROBE, Trial


@dataclass(frozen=True)
class Tested:
    """How both models do on one of the test sets of `options.test`.

    Attributes:
        test: the pictures.
        probabilities: by the delivered model, float32 [pictures, classes].
        probe: for each picture whether the linear probe is right.
        fine_tuned: the same of the fine-tuned model.
    """

    test: TestSet
    probabilities: Tensor
    probe: tuple[bool, ...]
    fine_tuned: tuple[bool, ...]

    @property
    def right(self) -> tuple[bool, ...]:
        """For each picture whether the delivered model is right."""
        return tuple((self.probabilities.argmax(1) == torch.tensor(self.test.labels)).tolist())

    @property
    def figures(self) -> dict[str, float]:
        """Top-1 of the delivered model with its 95 % interval, of both, and their difference, in percent."""
        low, high = interval(self.right)
        difference = paired_difference(self.fine_tuned, self.probe)
        return {
            "num_pictures": len(self.right),
            "top1": 100 * fmean(self.right),
            "low": low,
            "high": high,
            "linear_probe_top1": 100 * fmean(self.probe),
            "fine_tuned_top1": 100 * fmean(self.fine_tuned),
            **asdict(difference),
        }

    def __str__(self) -> str:
        """How both do, in a line."""
        found, difference = self.figures, paired_difference(self.fine_tuned, self.probe)
        return (
            f"{self.test.name} ({len(self.right)} pictures): linear probe {found['linear_probe_top1']:.1f} · "
            f"fine-tuned {found['fine_tuned_top1']:.1f} ({difference}); delivered {found['top1']:.1f} % "
            f"({found['low']:.1f} to {found['high']:.1f})"
        )


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
        tests: how both models do on the test sets of `options.test`.
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
    tests: Sequence[Tested] = ()

    @property
    def kind(self) -> str:
        """The delivered model, in words."""
        return str(PROBE) if self.report is self.probe else f"fine-tuned: {self.trial}"
