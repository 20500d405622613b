"""Projections whatever a step is like: closures, SAM, subclasses, and steps that a `GradScaler` skips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import vitreg
from vitreg import FTP, SPD, L2Ball


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def inputs(step: int) -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(step)).double()


def run(
    make: Callable[[Any], Optimizer],
    take: Callable[[nn.Module, Optimizer, Callable[[], Tensor]], None],
    projection: vitreg.Projection | None = None,
) -> list[Tensor]:
    """Return the weights after four steps, each taken by `take(model, optimizer, closure)`."""
    model = net()
    optimizer = make(model.parameters())
    if projection is not None:
        vitreg.project(model, optimizer, None, projection, new_head="2")
    for step in range(4):
        x = inputs(step)

        def closure(x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            loss = (model(x) - x.mean()).square().mean()
            loss.backward()
            return loss

        take(model, optimizer, closure)
    return [p.detach() for p in model.parameters()]


def plain(model: nn.Module, optimizer: Optimizer, closure: Callable[[], Tensor]) -> None:
    closure()
    optimizer.step()


PROJECTIONS = [SPD(), FTP(lr=0.1), L2Ball(radius=0.05)]
each = pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda p: p.name)


def adam(parameters: Any) -> Optimizer:
    return Adam(parameters, lr=0.1)


@each
@pytest.mark.parametrize("keyword", [False, True])
def test_a_closure(projection: vitreg.Projection, keyword: bool) -> None:
    def take(model: nn.Module, optimizer: Optimizer, closure: Callable[[], Tensor]) -> None:
        loss = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
        assert loss is not None

    expected = run(adam, plain, projection)
    found = run(adam, take, projection)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    free = run(adam, plain)
    assert not torch.equal(free[0], expected[0])


def test_a_closure_that_is_called_often() -> None:
    def take(model: nn.Module, optimizer: Optimizer, closure: Callable[[], Tensor]) -> None:
        optimizer.step(closure)

    def lbfgs(parameters: Any) -> Optimizer:
        return torch.optim.LBFGS(parameters, lr=1.0, max_iter=5)

    start = [p.detach() for p in net().parameters()]
    found = run(lbfgs, take, L2Ball(radius=0.05))
    distances = [(one - other).norm().item() for one, other in zip(found, start, strict=True)]
    assert distances[:2] == pytest.approx([0.05, 0.05])
    assert distances[2] > 0.05


class SAM(Optimizer):
    """Sharpness-aware minimisation as it is usually written: around another optimiser."""

    def __init__(self, parameters: Any, rho: float = 0.05) -> None:
        super().__init__(list(parameters), {"rho": rho})
        self.base_optimizer = SGD(self.param_groups, lr=0.5)
        self.kept: list[Tensor] = []

    @torch.no_grad()
    def climb(self) -> None:
        parameters = self.param_groups[0]["params"]
        self.kept = [p.clone() for p in parameters]
        for p in parameters:
            p.add_(p.grad, alpha=self.param_groups[0]["rho"])

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p, kept in zip(self.param_groups[0]["params"], self.kept, strict=True):
            p.copy_(kept)
        self.base_optimizer.step()


@each
def test_sam(projection: vitreg.Projection) -> None:
    def take(model: nn.Module, optimizer: Optimizer, closure: Callable[[], Tensor]) -> None:
        closure()
        optimizer.climb()
        closure()
        optimizer.step()

    def by_hand(model: nn.Module, optimizer: Optimizer, closure: Callable[[], Tensor]) -> None:
        closure()
        kept = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for p in model.parameters():
                p.add_(p.grad, alpha=0.05)
        closure()
        with torch.no_grad():
            for p, value in zip(model.parameters(), kept, strict=True):
                p.copy_(value)
        optimizer.step()

    expected = run(lambda parameters: SGD(parameters, lr=0.5), by_hand, projection)
    found = run(SAM, take, projection)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


class Twice(Adam):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


@each
def test_a_step_that_calls_that_of_its_base(projection: vitreg.Projection) -> None:
    expected = run(adam, plain, projection)
    found = run(lambda parameters: Twice(parameters, lr=0.1), plain, projection)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@each
@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_a_gradient_scaler_skips(projection: vitreg.Projection, fused: bool) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, backoff_factor=0.5)

    def make(parameters: Any) -> Optimizer:
        return Adam(parameters, lr=0.1, fused=fused)

    def take(model: nn.Module, optimizer: Optimizer, closure: Callable[[], Tensor]) -> None:
        for is_broken in (True, False):
            closure()
            for p in model.parameters():
                p.grad.mul_(float("inf") if is_broken else scaler.get_scale())
            scaler.scale(torch.zeros(()))  # which makes its scale
            before = [p.detach().clone() for p in model.parameters()]
            scaler.step(optimizer)
            scaler.update()
            if is_broken:
                assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))

    scaler.scale(torch.zeros(()))
    expected = run(make, plain, projection)
    found = run(make, take, projection)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_step_that_ends_in_an_exception_is_forgotten() -> None:
    def fail() -> Tensor:
        raise RuntimeError("on purpose")

    model = net()
    optimizer = SGD(model.parameters(), lr=100.0)
    vitreg.project(model, optimizer, None, L2Ball(radius=0.1), new_head=())
    start = model[0].weight.detach().clone()
    with pytest.raises(RuntimeError, match="on purpose"):
        optimizer.step(fail)
    model(inputs(0)).sum().backward()
    optimizer.step()
    assert (model[0].weight - start).norm().item() == pytest.approx(0.1)
