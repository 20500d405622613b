"""`project`: which parameters are pulled back, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import vitreg
from laws import refuses
from vitreg import FTP, MARS, SPD, ArgumentError, L2Ball, MismatchError, StateError, UnsupportedModelError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def inputs(step: int) -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(step)).double()


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


def test_a_state_that_was_taken_or_given_stays_as_it_is() -> None:
    model = net()
    optimizer = SGD(model.parameters(), lr=0.1)
    pull = vitreg.project(model, optimizer, None, FTP(), new_head=())

    def step(seed: int) -> None:
        optimizer.zero_grad()
        model(inputs(seed)).square().sum().backward()
        optimizer.step()

    step(0)
    state = pull.state_dict()
    kept = copy.deepcopy(state["state"])
    step(1)
    pull.load_state_dict(state)
    step(2)
    for name, own in kept.items():
        for key, value in own.items():
            assert torch.equal(state["state"][name][key], value), (name, key)
        assert not torch.equal(pull.state_dict()["state"][name]["direction"], own["direction"])


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
