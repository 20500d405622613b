"""`project`: which parameters are pulled back, whatever the optimiser, its wrappers and its steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import vitreg
from laws import refuses
from vitreg import FTP, MARS, SPD, ArgumentError, L2Ball, MismatchError, StateError, UnsupportedModelError


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


def test_a_parameter_without_a_gradient_shifts_nothing() -> None:
    found = []
    for late in (False, True):
        model = net()
        optimizer = SGD(model.parameters(), lr=0.5)
        pull = vitreg.project(model, optimizer, None, FTP(lr=0.1), new_head=())
        for step in range(3):
            optimizer.zero_grad()
            model(inputs(step)).square().mean().backward()
            if late and step == 1:  # the first parameter sits a step out
                model[0].weight.grad = None
            optimizer.step()
        found.append(pull.state_dict()["state"])
    assert found[0]["0.weight"]["steps"] == found[1]["0.weight"]["steps"] + 1
    assert found[0]["2.bias"]["steps"] == found[1]["2.bias"]["steps"] == 3


def test_copies_are_not_projected() -> None:
    model = net()
    optimizer = SGD(model.parameters(), lr=1.0)
    pull = vitreg.project(model, optimizer, None, L2Ball(radius=0), new_head=())
    twin, other, copied = copy.deepcopy((model, optimizer, pull))
    copied.remove()
    assert "removed" in repr(copied)
    for net_, steps in ((twin, other), (model, optimizer)):
        net_(inputs(0)).sum().backward()
        steps.step()
    start = net()
    assert torch.equal(model[0].weight, start[0].weight)
    assert not torch.equal(twin[0].weight, start[0].weight)


def test_tied_weights_are_projected_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

    model, given = Tied(), {"second.weight": torch.zeros(3, 3)}
    optimizer = SGD(model.parameters(), lr=0.0)
    pull = vitreg.project(model, optimizer, given, L2Ball(radius=0.5), new_head=())
    assert "1 parameters are pulled" in repr(pull)
    assert "without a partner in the source: first.bias, second.bias" in repr(pull)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert model.first.weight.norm().item() == pytest.approx(0.5)
    assert model.second.weight is model.first.weight


def test_what_is_left_alone_is_said(vit: Callable[..., nn.Module]) -> None:
    model, source = vit(num_classes=5), vit(num_classes=9, img_size=64)
    model.patch_embed.requires_grad_(False)
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    said = str(vitreg.project(model, optimizer, source, MARS(radius=1.0)))
    assert said.startswith("Projection of VisionTransformer by MARS(radius=1.0), at work\n")
    assert "left alone, the new head: head.weight, head.bias" in said
    assert "left alone, without a partner in the source: pos_embed" in said
    assert "left alone, frozen: patch_embed.proj.weight, patch_embed.proj.bias" in said
    assert "left alone, not of the kind that is projected: blocks.0.norm1.weight" in said
    assert "13 parameters are pulled toward the source" in said


def test_what_is_unfrozen_later_has_no_start(vit: Callable[..., nn.Module]) -> None:
    model = vit()
    model.patch_embed.requires_grad_(False)
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    vitreg.project(model, optimizer, None, SPD())
    model.patch_embed.requires_grad_(True)
    optimizer.add_param_group({"params": list(model.patch_embed.parameters())})
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    with refuses(StateError, "'patch_embed.proj.weight' to stay frozen", "with a source"):
        optimizer.step()


@pytest.mark.parametrize(
    "kind", ["tower", "composite", "attachment", "state", pytest.param("compiled", marks=pytest.mark.slow)]
)
def test_sources(kind: str, clip: Callable[..., nn.Module]) -> None:
    source = clip()
    model = nn.ModuleDict({"clip": copy.deepcopy(source), "head": nn.Linear(8, 2)})
    given: Any = {"tower": source.visual, "composite": source, "state": model.state_dict()}.get(kind)
    if kind == "attachment":
        given = vitreg.attach(model, source.visual, target="block_output").source
    if kind == "compiled":
        given = torch.compile(nn.ModuleDict({"clip": source}))
    optimizer = SGD(model.parameters(), lr=0.0)
    pull = vitreg.project(model, optimizer, given, L2Ball(radius=0))
    assert "pulled toward the source\n  left alone, the new head: head.weight, head.bias" in str(pull)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in source.visual.named_parameters():
        assert torch.equal(model["clip"].visual.get_parameter(name), p), name


def test_adapters_start_at_zero(vit: Callable[..., nn.Module]) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["head"], init_lora_weights=False)
    model = get_peft_model(vit(), config)
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    for wrong in (None, vit()):
        with refuses(ArgumentError, "Expected source='base'", "start at zero, found"):
            vitreg.project(model, optimizer, wrong, SPD())
    pull = vitreg.project(model, optimizer, "base", L2Ball(radius=0.25))
    assert "6 parameters are pulled" in str(pull)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    for name, p in model.named_parameters():
        if "lora_" in name:
            assert p.norm().item() == pytest.approx(0.25)
        else:
            assert torch.equal(p, before[name])
    with refuses(ArgumentError, "'base' is for a model with adapters", "get_peft_model"):
        vitreg.project(bare := vit(), SGD(bare.parameters()), "base", SPD())


def test_adapters_that_do_not_start_at_zero(vit: Callable[..., nn.Module]) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(vit(), LoraConfig(r=2, target_modules=["qkv"], use_dora=True))
    optimizer = SGD(model.parameters(), lr=0.1)
    with refuses(UnsupportedModelError, "found lora_magnitude_vector at", "DoRA"):
        vitreg.project(model, optimizer, "base", SPD())


def test_wrong_arguments(vit: Callable[..., nn.Module]) -> None:
    model = vit()
    optimizer = SGD(model.parameters(), lr=0.1)
    with refuses(ArgumentError, "torch.optim.Optimizer, got VisionTransformer"):
        vitreg.project(model, model, None, SPD())
    with refuses(ArgumentError, "torch.nn.Module, got SGD"):
        vitreg.project(optimizer, optimizer, None, SPD())
    with refuses(ArgumentError, "optimiser of the parameters of VisionTransformer, found none"):
        vitreg.project(vit(), optimizer, None, SPD())
    with refuses(ArgumentError, "not its class: write MARS(…)"):
        vitreg.project(model, optimizer, None, MARS)
    with refuses(ArgumentError, "'mars' needs options: pass a MARS(…)"):
        vitreg.project(model, optimizer, None, "mars")
    with refuses(ArgumentError, "no projection 'spdd'", "'spd'"):
        vitreg.project(model, optimizer, None, "spdd")
    with refuses(ArgumentError, "a projection or its name, got L2SP"):
        vitreg.project(model, optimizer, None, vitreg.L2SP())
    for wrong in ("source", 3):
        with refuses(ArgumentError, "source must be a model", "got"):
            vitreg.project(model, optimizer, wrong, SPD())
    with refuses(MismatchError, "found none of their names and shapes", "same call"):
        vitreg.project(model, optimizer, {"other": torch.zeros(3)}, SPD())
    with refuses(ArgumentError, "new_head='tail' names no parameters"):
        vitreg.project(model, optimizer, None, SPD(), new_head="tail")
    small = net()
    with refuses(UnsupportedModelError, "Transformer"):
        vitreg.project(small, SGD(small.parameters()), None, SPD())
    model.head.weight._is_flat_param = True
    with refuses(UnsupportedModelError, "found FSDP1", "Use DDP or FSDP2"):
        vitreg.project(model, optimizer, None, SPD())


def test_a_projection_of_one_s_own() -> None:
    from vitreg.projections import projections
    from vitreg.projections.base import Projection

    with refuses(ArgumentError, "derives from vitreg.Projection"):
        vitreg.register_projection("half")(nn.Linear)

    class Half(Projection):
        def shares(self, shifts: Any, before: Any, states: Any) -> list[Tensor]:
            return [torch.tensor(0.5) for _ in shifts.tensors]

    vitreg.register_projection("half")(Half)
    try:
        model = net()
        start = model[0].weight.detach().clone()
        optimizer = SGD(model.parameters(), lr=1.0)
        vitreg.project(model, optimizer, None, "half", new_head=())
        model[0].weight.grad = torch.ones_like(start)
        optimizer.step()
        torch.testing.assert_close(model[0].weight.detach(), start - 0.5)
    finally:
        del projections._entries["half"]
