"""Weights that a source shares in ways that only its first pass shows."""

from __future__ import annotations

import weakref

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import SMALL, make_vit
from vitreg import UnsupportedModelError


class ByClass(VisionTransformer):
    """Keeps a teacher where no copy of an instance looks."""

    teacher: nn.Module

    def _pos_embed(self, x: Tensor) -> Tensor:
        return type(self).teacher(super()._pos_embed(x))


def test_a_module_of_the_class_is_found_in_the_first_pass(images: Tensor) -> None:
    ByClass.teacher = nn.Linear(16, 16)
    model = ByClass(**SMALL).train()
    with vitreg.attach(model) as reg:
        model(images)
        with refuses(UnsupportedModelError, "weights of its own", "a parameter [16, 16]", "another model"):
            reg.penalty()


class Scaled(nn.Module):
    """Multiplies by a buffer of the model around it, which a copy of this module finds, too."""

    def __init__(self, inner: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.inner, self.model = inner, weakref.ref(model)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.model().average


@pytest.mark.parametrize("swallowed", [False, True])
def test_a_buffer_of_the_model_is_found_in_the_first_pass(images: Tensor, swallowed: bool) -> None:
    model = make_vit()
    model.register_buffer("average", torch.ones(1))
    model.blocks[0].mlp = Scaled(model.blocks[0].mlp, model)
    if swallowed:
        model.blocks[0].mlp = Forgiving(model.blocks[0].mlp)
    with vitreg.attach(model.train(), target="block_output") as reg:
        model(images)
        with refuses(UnsupportedModelError, "weights of its own", "'average' of another model"):
            reg.penalty()


class Forgiving(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        try:
            return self.inner(x)
        except Exception:
            return torch.zeros_like(x)


class Unregistered(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.more = inner, [nn.Linear(16, 16)]

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.more[0](x)


def test_a_module_in_a_plain_list(images: Tensor) -> None:
    model = make_vit()
    model.blocks[0].mlp = Unregistered(model.blocks[0].mlp)
    with vitreg.attach(model.train()) as reg:
        model(images)
        with refuses(UnsupportedModelError, "a parameter [16, 16]", "plain list", "nn.ModuleList"):
            reg.penalty()


def test_constants_are_no_weights(images: Tensor) -> None:
    model = make_vit().train()
    mean = torch.randn(16)
    model.norm.register_forward_hook(lambda _, args, out: out - mean)
    with vitreg.attach(model, target="features") as reg:
        model(images)
        assert reg.penalty() == 0


def test_the_first_pass_alone_is_watched(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitreg.sources import frozen

    watched = []
    original = frozen.own_weights_only
    monkeypatch.setattr(frozen, "own_weights_only", lambda *a, **k: watched.append(1) or original(*a, **k))
    model = make_vit().train()
    with vitreg.attach(model) as reg:
        for _ in range(3):
            model(images)
            reg.penalty()
        with vitreg.attach(model, reg.source, "block_output") as second:
            model(images)
            second.penalty()
    assert len(watched) == 1


def test_a_hook_that_comes_after_attaching(images: Tensor) -> None:
    model = make_vit().train()
    with vitreg.attach(model, target="block_output") as reg:
        model.blocks[1].register_forward_hook(lambda _m, _a, out: out + 1)
        model(images)
        with vitreg.trace(model, "block_output") as trace, torch.no_grad():
            model(images)
        before = [torch.zeros_like(value) for value in trace["block_output"]]
        with torch.no_grad(), vitreg.trace(reg.source.tower.module, "block_output") as source:
            reg.source.tower.module(images)
        pairs = zip(trace["block_output"], source["block_output"], strict=True)
        expected = sum(F.mse_loss(a.double(), b.double()) for a, b in pairs) / len(before)
        assert reg.penalty().item() == pytest.approx(float(expected), rel=1e-5)
        assert expected > 0.1
