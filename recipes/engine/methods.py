"""The rows of the tables: a method's name, and what it attaches to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import vitreg
from engine.errors import RecipeError, nearest
from vitreg import ReadingPenalty

METHODS: dict[str, Callable[[float], ReadingPenalty] | None] = {
    "fine-tune": None,
    "block-output": lambda lam: vitreg.FeatureGuide("block_output", lam=lam),
    "msa-output": lambda lam: vitreg.FeatureGuide("msa_output", lam=lam),
    "GTA": lambda lam: vitreg.GTA(lam=lam),
}
"""From the name in the paper's table to the target at a given λ; None trains without a penalty."""

SOURCE = "source"
"""The model before any training, as a row: only its attention can be measured, its head is new."""


def is_guided(method: str) -> bool:
    """Return whether a method has a λ."""
    return METHODS.get(method) is not None


def target_of(method: str, lam: float | None) -> ReadingPenalty | None:
    """Return what a method attaches, or None for plain fine-tuning."""
    build = METHODS[method]
    return None if build is None or lam is None else build(lam)


def check_methods(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names as the tables write them, each once.

    Raises:
        RecipeError: A name is unknown.
    """
    known = {name.lower(): name for name in METHODS}
    found: list[str] = []
    for name in names:
        if name.lower() not in known:
            raise RecipeError(
                f"unknown method {name!r}{nearest(name, METHODS)} (known: {', '.join(METHODS)})"
            )
        if known[name.lower()] not in found:
            found.append(known[name.lower()])
    return tuple(found)
