"""SPD: the literal second writing, and that it is selective."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses
from literal_projections import Numbers, check_literally, euclidean, minus, product, rows
from vitreg import SPD, ArgumentError


def literal(strength: float, start: Tensor, before: Tensor, gradient: Tensor, after: Tensor) -> Numbers:
    shift = minus(rows(after), rows(start))
    if product(rows(gradient), minus(rows(before), rows(start))) <= 0:
        return rows(after)
    radius, now = euclidean(minus(rows(before), rows(start))), euclidean(shift)
    share = strength * min(max((now - radius) / now, 0.0), 1.0)
    return [
        [w - share * s for w, s in zip(x, y, strict=True)] for x, y in zip(rows(after), shift, strict=True)
    ]


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_literal(strength: float) -> None:
    def rule(*given: Any) -> Numbers:
        return literal(strength, *given[:4])

    moved = check_literally(SPD(strength=strength), rule)
    assert moved[0] == 0, "at the start there is no direction"
    assert max(moved) > 0
    assert len(set(moved)) > 1, "it is selective"


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_it_acts_where_the_gradient_points_away_from_the_start(sign: float) -> None:
    weight = nn.Linear(3, 2, bias=False)
    start = weight.weight.detach().clone()
    with torch.no_grad():
        weight.weight.add_(0.1)
    optimizer = torch.optim.SGD(weight.parameters(), lr=10.0)
    vitreg.project(weight, optimizer, {"weight": start}, SPD(), new_head=())
    weight.weight.grad = torch.full_like(start, sign)
    radius = (weight.weight - start).norm()
    optimizer.step()
    distance = (weight.weight - start).norm()
    if sign > 0:  # the step went through the start and out on the other side
        torch.testing.assert_close(distance, radius)
    else:
        assert distance > 50 * radius


def test_a_gradient_that_is_ascended_counts_with_the_other_sign() -> None:
    found = []
    for maximize in (False, True):
        torch.manual_seed(0)
        weight = nn.Linear(3, 2, bias=False)
        start = weight.weight.detach() - 0.1
        optimizer = torch.optim.SGD(weight.parameters(), lr=10.0, maximize=maximize)
        vitreg.project(weight, optimizer, {"weight": start}, "spd", new_head=())
        weight.weight.grad = torch.full_like(start, -1.0 if maximize else 1.0)
        optimizer.step()
        found.append(weight.weight.detach())
    assert torch.equal(*found)


def test_bad_options() -> None:
    for wrong in (-1, 1.5, float("nan"), "1", True, None):
        with refuses(ArgumentError, "strength must be a number", repr(wrong)):
            SPD(strength=wrong)
