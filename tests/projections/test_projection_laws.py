"""Laws that every registered projection obeys, on a small Vision Transformer with AdamW."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import num_hooks, refuses, unchanged
from small_models import make_vit
from vitreg import FTP, MARS, SPD, ArgumentError, L2Ball, MismatchError, Projection
from vitreg.projections import projections

SAMPLES = {"spd": SPD(), "ftp": FTP(), "mars": MARS(radius=0.05), "l2ball": L2Ball(radius=0.05)}
"""Each projection with options by which it moves something."""

FREE = [SPD(strength=0.0), MARS(radius=math.inf), L2Ball(radius=math.inf)]
"""Those that leave the weights alone."""

by_name = pytest.mark.parametrize("name", vitreg.list_projections())


def batches(count: int = 3) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(4, 3, 32, 32, generator=generator), torch.arange(4)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()


def made(lr: float = 0.01) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = make_vit(depth=1, init_values=0.1).train()
    return model, torch.optim.AdamW(model.parameters(), lr=lr)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def trained(projection: Projection | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights before and after a few steps."""
    model, optimizer = made()
    start = weights(model)
    if projection is not None:
        vitreg.project(model, optimizer, None, projection)
    for batch in batches():
        step(model, optimizer, *batch)
    return start, weights(model)


def test_each_has_a_sample() -> None:
    assert SAMPLES.keys() == set(vitreg.list_projections())


@by_name
def test_a_projection_is_its_options(name: str) -> None:
    sample = SAMPLES[name]
    assert type(sample) is projections[name]
    assert sample.name == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.other = 1.0
    assert "Source:" in type(sample).__doc__
    assert "$$" in type(sample).__doc__


@by_name
def test_no_step_ends_farther_away_than_without(name: str) -> None:
    model, optimizer = made()
    start = weights(model)
    head = {"head.weight", "head.bias"}
    moved = 0
    vitreg.project(model, optimizer, None, SAMPLES[name])
    for batch in batches():
        twin = copy.deepcopy(model)
        free = torch.optim.AdamW(twin.parameters(), lr=0.01)
        free.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        step(twin, free, *batch)
        step(model, optimizer, *batch)
        for (key, own), other in zip(model.named_parameters(), twin.parameters(), strict=True):
            if key in head:
                assert torch.equal(own, other), "the new head is left alone"
            else:
                near, far = (own - start[key]).norm(), (other - start[key]).norm()
                assert near <= far * (1 + 1e-5) + 1e-7
                moved += not torch.equal(own, other)
    assert moved > 10


@pytest.mark.parametrize("projection", FREE, ids=repr)
def test_without_a_bound_nothing_changes(projection: Projection) -> None:
    _, expected = trained(None)
    _, found = trained(projection)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("projection", [MARS(radius=0), L2Ball(radius=0)], ids=repr)
def test_at_a_radius_of_zero_the_weights_are_the_source_s(projection: Projection) -> None:
    start, found = trained(projection)
    for name, value in found.items():
        is_held = not name.startswith("head.") and projection.selects(name, value)
        assert torch.equal(value, start[name]) == is_held, name


@by_name
def test_a_run_that_goes_on_is_as_one_without_a_break(name: str) -> None:
    _, expected = trained(SAMPLES[name])
    model, optimizer = made()
    source = copy.deepcopy(model)
    pull = vitreg.project(model, optimizer, None, SAMPLES[name])
    files = io.BytesIO()
    for number, batch in enumerate(batches()):
        if number == 1:
            torch.save([model.state_dict(), optimizer.state_dict(), pull.state_dict()], files)
            files.seek(0)
            states = torch.load(files, weights_only=True)
            model, optimizer = made()
            pull = vitreg.project(model, optimizer, source, SAMPLES[name])
            for thing, state in zip((model, optimizer, pull), states, strict=True):
                thing.load_state_dict(state)
        step(model, optimizer, *batch)
    assert all(torch.equal(value, expected[key]) for key, value in weights(model).items())


@by_name
def test_a_state_of_something_else_is_refused(name: str) -> None:
    model, optimizer = made()
    pull = vitreg.project(model, optimizer, None, SAMPLES[name])
    state = pull.state_dict()
    pull.load_state_dict(state)
    for wrong in ({}, {**state, "projection": "other"}):
        with refuses(ArgumentError, f"state of {name!r}", "found"):
            pull.load_state_dict(wrong)
    with refuses(MismatchError, "found parameters such as 'nobody'", "same source"):
        pull.load_state_dict({**state, "state": {"nobody": {}}})
    step(model, optimizer, *next(batches()))
    other = torch.optim.AdamW(model.parameters())
    with refuses(MismatchError, "found weights that start elsewhere", "same source"):
        vitreg.project(model, other, None, SAMPLES[name]).load_state_dict(state)


@by_name
def test_it_is_taken_off(name: str) -> None:
    model, optimizer = made()
    with unchanged(model), vitreg.project(model, optimizer, None, SAMPLES[name]) as pull:
        assert num_hooks(model) == 0
        assert "at work" in repr(pull)
        with refuses(ArgumentError, f"{name!r} is on this optimiser already", "remove()"):
            vitreg.project(model, optimizer, None, SAMPLES[name])
    pull.remove()
    assert "removed" in repr(pull)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    _, expected = trained(None)
    for batch in batches():
        step(model, optimizer, *batch)
    assert all(torch.equal(value, expected[key]) for key, value in weights(model).items())


@by_name
def test_half_precision(name: str) -> None:
    model, optimizer = made()
    source = copy.deepcopy(model)
    model.bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    vitreg.project(model, optimizer, source, SAMPLES[name])
    for images, labels in batches():
        step(model, optimizer, images.bfloat16(), labels)
    assert all(p.dtype == torch.bfloat16 and bool(p.isfinite().all()) for p in model.parameters())
    if name == "l2ball":
        start = weights(source)
        for key, own in model.named_parameters():
            if not key.startswith("head."):  # to the rounding of bfloat16
                near = (own.float() - start[key]).norm()
                assert near <= 0.051 + 2**-7 * start[key].norm()
