"""The part of each class that a run may train on: the same for every method at one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import RecipeError, listed


@dataclass(frozen=True)
class Share:
    """How much of each class is trained on: a share `rate` in (0, 1], or a number `shots` of pictures."""

    rate: float | None = None
    shots: int | None = None

    def __str__(self) -> str:
        if self.shots is not None:
            return f"{self.shots} per class"
        return f"{100 * (self.rate or 0):g} %"

    @property
    def slug(self) -> str:
        """The share in the name of a run's folder."""
        return f"shots{self.shots}" if self.shots is not None else f"rate{100 * (self.rate or 0):g}"

    def count(self, available: int) -> int:
        """Return how many of `available` pictures of a class are taken."""
        return self.shots if self.shots is not None else round((self.rate or 0) * available)


def stratified(labels: Sequence[int], share: Share, *, seed: int, classes: Sequence[str]) -> list[int]:
    """Return the sorted indices of a random share of each class.

    Each class is shuffled by its own generator, so a smaller share is part of a larger one at the same seed.

    Raises:
        RecipeError: A class would be left empty, or has fewer pictures than `shots`.
    """
    chosen: list[int] = []
    for label, name in enumerate(classes):
        members = [index for index, found in enumerate(labels) if found == label]
        count = share.count(len(members))
        if count < 1:
            raise RecipeError(
                f"{share} leaves class {name} empty: it has {listed([str(len(members))])} pictures"
            )
        if count > len(members):
            raise RecipeError(f"{share} is more than the {len(members)} training pictures of class {name}")
        order = np.random.default_rng([seed, label]).permutation(len(members))
        chosen += [members[position] for position in order[:count]]
    return sorted(chosen)
