"""MARS: the literal second writing; matrices alone are held."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from laws import refuses
from literal_projections import Net, Numbers, check_literally, minus, rows
from vitreg import MARS, ArgumentError

RADIUS = 0.2


def literal(start: Tensor, before: Tensor, gradient: Tensor, after: Tensor, kept: dict[str, Any]) -> Numbers:
    shift = minus(rows(after), rows(start))
    largest = max(sum(abs(x) for x in row) for row in shift)
    factor = min(1.0, RADIUS / largest)
    return [
        [o + factor * s for o, s in zip(x, y, strict=True)] for x, y in zip(rows(start), shift, strict=True)
    ]


def test_literal() -> None:
    moved = check_literally(MARS(radius=RADIUS), literal)
    assert max(moved) == 2


def test_matrices_are_selected() -> None:
    model = Net()
    chosen = {name for name, p in model.named_parameters() if MARS(radius=1).selects(name, p)}
    assert chosen == {"conv.weight", "dense.weight", "head.weight"}
    assert not MARS(radius=1).selects("b", torch.zeros(3))


def test_bad_options() -> None:
    for wrong in (-1, float("nan"), "1", True, None):
        with refuses(ArgumentError, "radius must be a number of at least 0", repr(wrong)):
            MARS(radius=wrong)
