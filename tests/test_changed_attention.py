"""Attention that its owner changed, in methods, functions or numbers: read rightly, or refused."""

from __future__ import annotations

import types

import pytest
import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

import vitreg
from laws import refuses
from plain_attention import Base
from small_models import TOWERS, make_vit
from softmax_recorder import SoftmaxRecorder
from vitreg import UnsupportedModelError


class Warmer(Attention):
    """A class of somebody's own with one method changed."""

    def forward(self, x: Tensor, **_: object) -> Tensor:
        return super().forward(3 * x)


def test_methods_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from vitreg.families import families

    vitreg.list_families()
    model = make_vit()
    assert families.find(model.blocks[0].attn) is not None
    assert families.find(Warmer(16, 2)) is None
    model.blocks[0].attn.forward = types.MethodType(Warmer.forward, model.blocks[0].attn)
    assert families.find(model.blocks[0].attn) is None
    monkeypatch.setattr(Attention, "forward", Warmer.forward)
    assert families.find(model.blocks[1].attn) is None


def test_a_helper_of_ones_own() -> None:
    from timm.models.beit import Attention as BeitAttention

    from vitreg.families import families

    class Other(BeitAttention):
        def _get_rel_pos_bias(self) -> Tensor:
            return 2 * super()._get_rel_pos_bias()

    assert families.find(Other(16, 2, window_size=(4, 4))) is None
    assert families.find(BeitAttention(16, 2, window_size=(4, 4))) is not None


def test_fused_attention_ignores_a_changed_scale(images: Tensor) -> None:
    model = make_vit().eval()
    for fused in (True, False):
        for block in model.blocks:
            block.attn.scale, block.attn.fused_attn = 1.0, fused
        with SoftmaxRecorder() as recorder, vitreg.trace(model, "attn_logits") as trace:
            model(images)
        for ours, whole in zip(trace["attn_logits"], recorder.logits, strict=True):
            if fused:
                torch.testing.assert_close(ours, whole[:, :, 0, 1:])


def test_an_attention_function_of_ones_own() -> None:
    from transformers import AttentionInterface, ViTConfig, ViTModel
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register("mine", sdpa_attention_forward)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViTModel._from_config(ViTConfig(**sizes), attn_implementation="mine")
    with refuses(UnsupportedModelError, "Expected attn_implementation", "'mine'"):
        vitreg.attach(model)


@pytest.mark.parametrize("name", ["torchvision", "timm_beit"])
def test_weights_that_change_when_looked_at(name: str) -> None:
    model = TOWERS[name]()
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            nn.utils.parametrizations.spectral_norm(module, "in_proj_weight")
        elif hasattr(module, "qkv"):
            nn.utils.parametrizations.spectral_norm(module.qkv, "weight")
    with refuses(UnsupportedModelError, "found a parametrization"):
        vitreg.attach(model)


class DropKey(Base):
    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        a = super().logits(q, k)
        return a.masked_fill(torch.rand_like(a) < 0.3, -1e4) if self.training else a


class Clamped(Base):
    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        return super().logits(q, k).clamp(-30, 30)


class SoftCapped(Base):
    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        return 50 * torch.tanh(super().logits(q, k) / 50)


class BiasBuffer(Base):
    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        return super().logits(q, k) + self.bias * torch.arange(k.shape[2])


class Temperature(Base):
    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        return super().logits(q, k) / self.temperature


class Twice(Base):
    def forward(self, x: Tensor, **_: object) -> Tensor:
        return super().forward(x + self.qkv(x).mean())


@pytest.mark.parametrize("attention", [DropKey, Clamped, SoftCapped, BiasBuffer, Temperature, Twice])
def test_attention_that_behaves_while_it_is_tried(attention: type[nn.Module]) -> None:
    assert not vitreg.describe(make_vit(attn_layer=Base)).extractors["attn_logits"]
    with refuses(UnsupportedModelError, "expected attention of a known family", attention.__name__):
        vitreg.attach(make_vit(attn_layer=attention))


def test_a_scale_that_is_annealed(images: Tensor) -> None:
    model = make_vit(attn_layer=Base).eval()
    with vitreg.trace(model, "attn_logits") as trace:
        for block in model.blocks:
            block.attn.scale = 0.1
        with SoftmaxRecorder() as recorder:
            model(images)
    for ours, whole in zip(trace["attn_logits"], recorder.logits, strict=True):
        torch.testing.assert_close(ours, whole[:, :, 0, 1:])
