"""FTP: the literal second writing, with Adam on each radius."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from laws import refuses
from literal_projections import Numbers, check_literally, minus, rows
from vitreg import FTP, ArgumentError


def literal(lr: float, annealing: float) -> Callable[..., Numbers]:
    def rule(start: Tensor, before: Tensor, gradient: Tensor, after: Tensor, kept: dict[str, Any]) -> Numbers:
        shift = minus(rows(after), rows(start))
        lengths = [sum(abs(x) for x in row) for row in shift]
        kept["t"] = t = kept.get("t", 0) + 1
        if t == 1:
            kept["radius"], kept["m"], kept["v"] = 1e-8, 0.0, 0.0
        else:
            slope = 0.0
            for own, direction, length in zip(rows(gradient), kept["shift"], kept["lengths"], strict=True):
                slope += sum(g * d / length for g, d in zip(own, direction, strict=True))
            slope *= annealing if slope > 0 else 1.0
            kept["m"] = 0.9 * kept["m"] + 0.1 * slope
            kept["v"] = 0.999 * kept["v"] + 0.001 * slope**2
            mean, square = kept["m"] / (1 - 0.9**t), kept["v"] / (1 - 0.999**t)
            radius = kept["radius"] - lr * mean / (math.sqrt(square) + 1e-8)
            kept["radius"] = max(min(radius, max(lengths)), 1e-8)
        kept["shift"], kept["lengths"] = shift, lengths
        return [
            [o + min(1.0, kept["radius"] / length) * s for o, s in zip(x, y, strict=True)]
            for x, y, length in zip(rows(start), shift, lengths, strict=True)
        ]

    return rule


@pytest.mark.parametrize(("lr", "annealing"), [(1e-2, 1.0), (0.1, 0.0), (0.5, 0.5)])
def test_literal(lr: float, annealing: float) -> None:
    moved = check_literally(FTP(lr=lr, annealing=annealing), literal(lr, annealing))
    assert max(moved) == 5


def test_bad_options() -> None:
    for name in ("lr", "annealing"):
        for wrong in (-1, 1.5, float("nan"), "1", True, None):
            with refuses(ArgumentError, f"{name} must be a number", repr(wrong)):
                FTP(**{name: wrong})
