"""Hierarchies of attention that are guided: gradients, checkpointing, heads, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from timm.models.metaformer import MetaFormer
from torch import nn

import vitreg
from hierarchical_models import (
    BOTH,
    MODELS,
    NAMES,
    _timm,
    images_of,
    shaken,
)
from vitreg.families import find_tower


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_guidance_starts_at_zero_and_has_gradients(name: str) -> None:
    model = shaken(name)
    model.training = True  # the norms stay in eval mode: with a batch's own statistics, 0 is not the start
    attached = vitreg.attach(model, target=list(BOTH))
    model(images_of(name))
    attached.penalty()
    start = attached.terms
    first = find_tower(model).blocks[0].attention
    with torch.no_grad():
        for parameter in first.parameters():
            parameter *= 1.5
    model(images_of(name))
    attached.penalty().backward()
    for extractor, end in attached.terms.items():  # passes with and without gradients may round differently
        assert start[extractor] <= 1e-6 * end
        assert end > 0
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in first.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_refused(name: str) -> None:
    model = MODELS[name].make()
    with pytest.raises(vitreg.UnsupportedModelError, match="Read"):
        vitreg.attach(model)
    expected = r"one attention over the whole picture, found .* \(\w+\)\. Read msa_output or block_output\."
    with pytest.raises(vitreg.UnsupportedModelError, match=expected):
        vitreg.attach(model, query="mean")


def test_windows_are_read_under_gradient_checkpointing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = shaken("swin")
        model.training = True
        attached = vitreg.attach(model, target="msa_output")
        with torch.no_grad():
            model.patch_embed.proj.weight += 0.1
        model.set_grad_checkpointing(checkpointing)
        model.layers.train()
        timm.layers.set_reentrant_ckpt(False)
        model(images_of("swin"))
        attached.penalty().backward()
        gradients.append(model.patch_embed.proj.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_renamed_subclasses_are_found() -> None:
    model = MODELS["swin"].make()
    for module in model.modules():  # as FSDP2 does
        if type(module).__name__ in ("SwinTransformerBlock", "WindowAttention"):
            module.__class__ = type(f"FSDP{type(module).__name__}", (type(module),), {})
    assert vitreg.describe(model).num_blocks == 3


@pytest.mark.parametrize(
    "make", [_timm("mobilenetv3_small_050"), lambda: MetaFormer(depths=(1, 1), dims=(8, 8))]
)
def test_a_model_without_attention_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(vitreg.UnsupportedModelError, match=r"found none in this .* no attention"):
        vitreg.describe(make())


@pytest.mark.parametrize("num_classes", [0, 7])
@pytest.mark.parametrize("name", ["swin", "levit_distilled", "efficientformer", "vit_sam", "shvit"])
def test_heads_receive_the_pooled_features(name: str, num_classes: int) -> None:
    model = shaken(name)
    model.reset_classifier(num_classes)
    tower = find_tower(model)
    two = name in ("levit_distilled", "efficientformer") and num_classes > 0
    assert len(tower.heads) == 1 + two
    with torch.no_grad(), vitreg.trace(model, "features") as read:
        model(images_of(name))
    assert read["features"][0].shape == (2, tower.width)
