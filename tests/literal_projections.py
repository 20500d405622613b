"""Projections written literally: float64, a loop over every number, by the formulas of their papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

import vitreg

Numbers = list[list[float]]
"""A tensor's rows: what belongs to one output; a vector is one row."""


def rows(tensor: Tensor) -> Numbers:
    flat = tensor.detach().double()
    return (flat.flatten(1) if flat.dim() > 1 else flat.reshape(1, -1)).tolist()


def minus(one: Numbers, other: Numbers) -> Numbers:
    return [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(one, other, strict=True)]


def euclidean(numbers: Numbers) -> float:
    return math.sqrt(sum(x * x for row in numbers for x in row))


def product(one: Numbers, other: Numbers) -> float:
    return sum(a * b for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


Rule = Callable[[Tensor, Tensor, Tensor, Tensor, dict[str, Any]], Numbers]
"""From start, weight before, gradient, weight after and what is remembered to the projected weight."""


class Net(nn.Module):
    """A convolution, a dense layer and a scalar, all pre-trained, and a head that is new."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2)
        self.dense = nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(4, 2)
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.tanh(self.dense(self.conv(images).mean((-1, -2)))) * self.scale)


def losses(model: nn.Module) -> Iterable[Tensor]:
    """Yield the loss of batch after batch, whose targets turn so that gradients change their sign."""
    generator = torch.Generator().manual_seed(3)
    for step in range(8):
        images = torch.randn(5, 2, 4, 4, generator=generator, dtype=torch.float64)
        yield (model(images) - (-1.0) ** (step // 2)).square().mean()


def check_literally(projection: vitreg.Projection, rule: Rule, *, lr: float = 0.3) -> list[int]:
    """Compare training with `projection` to the same with `rule`, parameter by parameter, number by number.

    Returns how many parameters were moved by the projection in each step.
    """
    torch.manual_seed(0)
    model = Net()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    remembered: dict[str, dict[str, Any]] = {name: {} for name in start}
    moved = []
    with vitreg.project(model, optimizer, start, projection, new_head="head"):
        for loss in losses(model):
            optimizer.zero_grad()
            loss.backward()
            expected, count = {}, 0
            for name, p in model.named_parameters():
                after = p.detach() - lr * p.grad
                expected[name] = rows(after)
                if not name.startswith("head.") and projection.selects(name, p):
                    expected[name] = rule(start[name], p.detach(), p.grad, after, remembered[name])
                    count += euclidean(minus(expected[name], rows(after))) > 1e-9
            optimizer.step()
            moved.append(count)
            for name, p in model.named_parameters():
                torch.testing.assert_close(rows(p), expected[name], rtol=1e-9, atol=1e-12)
    return moved
