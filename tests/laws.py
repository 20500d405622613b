"""Laws that formulas obey, written once as assertions; each test file names those that hold for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

import vitreg

settings.register_profile("vitreg", deadline=None, max_examples=20)
settings.load_profile("vitreg")

Value = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""A penalty as a function of the target's and the source's readings."""


def draw(seed: int, *shape: int) -> Tensor:
    """Return normal float32 numbers that depend on `seed` only."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def draw_blocks(seed: int, num_blocks: int, *shape: int) -> list[Tensor]:
    return [draw(seed + 1000 * index, *shape) for index in range(num_blocks)]


def zero_at_the_source(value: Value, target: Sequence[Tensor]) -> None:
    assert value(target, [t.clone() for t in target]).item() == 0


def a_float32_scalar(value: Value, target: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        taken = value([t.to(dtype) for t in target], [s.to(dtype) for s in source])
        assert taken.dtype == torch.float32
        assert taken.shape == ()
        assert torch.isfinite(taken)


def non_negative(value: Value, target: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    assert value(target, source).item() >= 0


def same_in_any_batch_order(value: Value, target: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    order = torch.arange(target[0].shape[0]).roll(1)
    turned = value([t[order] for t in target], [s[order] for s in source])
    torch.testing.assert_close(turned, value(target, source))


def quadratic(value: Value, target: Sequence[Tensor], source: Sequence[Tensor], factor: float) -> None:
    scaled = value([t * factor for t in target], [s * factor for s in source])
    torch.testing.assert_close(scaled, factor**2 * value(target, source), rtol=1e-3, atol=1e-4)


def gradient_to_the_target_only(value: Value, target: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    target = [t.clone().requires_grad_() for t in target]
    source = [s.clone().requires_grad_() for s in source]
    value(target, source).backward()
    assert all(t.grad is not None and bool(t.grad.abs().sum() > 0) for t in target)
    assert all(s.grad is None for s in source)


def num_hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def readable(model: nn.Module) -> list[str]:
    """Return the names of the extractors that read `model`."""
    return [name for name, why in vitreg.describe(model).extractors.items() if not why]


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Check that what happens inside leaves the model as it was: hooks, forwards, weights and flags."""
    assert num_hooks(model) == 0
    modules = [(name, type(module), module.training) for name, module in model.named_modules()]
    required = [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    yield
    assert num_hooks(model) == 0, "a hook was left behind"
    assert not any("forward" in vars(module) for module in model.modules()), "a forward was patched"
    assert modules == [(name, type(module), module.training) for name, module in model.named_modules()]
    assert required == [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


@contextmanager
def refuses(error: type[Exception], *parts: str) -> Iterator[None]:
    """Check that `error` itself is raised, and that its message holds each of `parts` in that order."""
    with pytest.raises(error) as caught:
        yield
    message = str(caught.value)
    assert type(caught.value) is error, repr(caught.value)
    first = message.partition("\n  @")[0]  # an error may end with lines of code
    assert first.rstrip(")").endswith((".", "?", ":")), f"no sentence: {message}"
    position = 0
    for part in parts:
        assert part in message[position:], f"{part!r} is missing (or out of order) in: {message}"
        position = message.index(part, position) + len(part)
