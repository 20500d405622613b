"""L2Ball: the literal second writing, for each tensor."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from laws import refuses
from literal_projections import Numbers, check_literally, euclidean, minus, rows
from vitreg import ArgumentError, L2Ball

RADIUS = 0.1


def literal(start: Tensor, before: Tensor, gradient: Tensor, after: Tensor, kept: dict[str, Any]) -> Numbers:
    shift = minus(rows(after), rows(start))
    length = euclidean(shift)
    factor = min(1.0, RADIUS / length) if length else 1.0
    return [
        [o + factor * s for o, s in zip(x, y, strict=True)] for x, y in zip(rows(start), shift, strict=True)
    ]


def test_literal() -> None:
    moved = check_literally(L2Ball(radius=RADIUS), literal)
    assert max(moved) == 5, "every tensor but the head's"


def test_bad_options() -> None:
    for wrong in (-1, float("nan"), "1", True, None):
        with refuses(ArgumentError, "radius must be a number of at least 0", repr(wrong)):
            L2Ball(radius=wrong)
