"""Which of two models is delivered: the one that is right more often on held-out training pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from vitreg.train.trials import OnFold, Trial


@dataclass(frozen=True)
class Standing:
    """How a trial does on the folds that it was measured on.

    Attributes:
        right: for each picture of these folds, in their order, whether it was right.
        loss: the mean cross-entropy of these pictures; infinite where a training diverged.
    """

    trial: Trial
    right: tuple[bool, ...]
    loss: float

    @property
    def top1(self) -> float:
        """The share of the pictures that were right, in percent."""
        return 100 * sum(self.right) / len(self.right)


def standing(trial: Trial, found: Sequence[OnFold]) -> Standing:
    """Return how a trial does on the folds that it was measured on."""
    right = tuple(one for fold in found for one in fold.right)
    return Standing(trial, right, sum(fold.loss * len(fold.right) for fold in found) / len(right))


@dataclass(frozen=True)
class Difference:
    """By how many points one model is ahead of another on the same pictures, and how much may be chance.

    Attributes:
        points: the difference of their top-1, in percent.
        chance: two standard errors of it, in points, from the pictures on which they differ.
    """

    points: float
    chance: float

    def __str__(self) -> str:
        """The difference in words."""
        kind = "within chance" if abs(self.points) <= self.chance else "more than chance"
        return f"{self.points:+.1f} points, {kind} (±{self.chance:.1f})"


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    r"""Return how far the first model is ahead of the second, picture by picture.

    With $d_i \in \{-1, 0, 1\}$ the difference on picture $i$ of $n$, $100\,\bar d$ points and two standard
    errors $200\sqrt{\overline{(d - \bar d)^2} / n}$. Pictures on which both are right, or both wrong, add
    nothing to it, so that it is smaller than the chance of two independent models.
    """
    differences = [int(a) - int(b) for a, b in zip(first, second, strict=True)]
    mean = sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / len(differences)
    return Difference(100 * mean, 200 * math.sqrt(variance / len(differences)))


def interval(right: Sequence[bool]) -> tuple[float, float]:
    """Return the 95 % interval of the share that is right, in percent: Wilson's, which holds near 100 %, too.

    Pictures are taken as independent; another seed, which trains another model, is not part of it.

    Source: Wilson 1927 (JASA 22), as `scipy.stats` has it.
    """
    found = binomtest(sum(right), len(right)).proportion_ci(0.95, "wilson")
    return 100 * float(found.low), 100 * float(found.high)


@dataclass(frozen=True)
class Choice:
    """The choice between the linear probe and the fine-tuned model, by training pictures alone."""

    probe: Standing
    fine_tuned: Standing
    num_folds: int

    @property
    def is_probe(self) -> bool:
        """Whether the probe is delivered; of a tie the fine-tuned model is."""
        return sum(self.probe.right) > sum(self.fine_tuned.right)

    @property
    def difference(self) -> Difference:
        """How far the fine-tuned model is ahead."""
        return paired_difference(self.fine_tuned.right, self.probe.right)

    def __str__(self) -> str:
        """The choice in a sentence, and what to try where it is the probe."""
        held_out = (
            f"on {len(self.probe.right)} training pictures, held out in {self.num_folds} folds, the linear "
            f"probe reaches {self.probe.top1:.1f} %, the fine-tuned model {self.fine_tuned.top1:.1f} % "
            f"({self.difference})"
        )
        if not self.is_probe:
            return f"the fine-tuned model is delivered: {held_out}"
        return (
            f"the linear probe is delivered: {held_out}; to improve, try --search, more --epochs, a "
            "smaller --lr, or more pictures"
        )
