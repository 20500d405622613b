"""The logits that vitreg reads are those that enter the model's own softmax."""

from __future__ import annotations

from collections.abc import Callable

import open_clip
import pytest
import timm
import torch
import torchvision
from torch import nn

import vitreg
from small_models import shake
from softmax_recorder import SoftmaxRecorder
from vitreg.types import Query

TIMM = {  # name: number of prefix tokens
    "vit_small_patch16_224": 1,
    "vit_small_patch14_dinov2": 1,
    "vit_small_patch14_reg4_dinov2": 5,
    "vit_small_patch16_dinov3": 5,
    "vit_small_patch16_rope_224": 1,
    "eva02_tiny_patch14_224": 1,
    "beit_base_patch16_224": 1,
    "beitv2_base_patch16_224": 1,
    "deit3_small_patch16_224": 1,
    "deit_tiny_distilled_patch16_224": 2,
}
OPEN_CLIP = ["ViT-B-32", "ViT-B-16-quickgelu", "EVA02-B-16"]
TOLERANCE = 1e-4


def _compare(model: nn.Module, run: Callable[[], object], num_prefix: int, query: Query) -> None:
    with SoftmaxRecorder() as recorder, vitreg.trace(model, "attn_logits", query=query) as read:
        run()
    expected = recorder.logits[: len(read["attn_logits"])]
    assert len(expected) == vitreg.describe(model).num_blocks > 0
    for ours, full in zip(read["attn_logits"], expected, strict=True):
        rows = full[:, :, 0] if query == "cls" else full[:, :, num_prefix:].mean(2)
        torch.testing.assert_close(ours, rows[..., num_prefix:], atol=TOLERANCE, rtol=0)
        assert ours.dtype == torch.float32
        assert ours.shape[-1] == full.shape[-1] - num_prefix


@pytest.mark.parametrize("query", ["cls", "mean"])
@pytest.mark.parametrize("name", TIMM)
def test_timm_logits_are_those_of_its_softmax(name: str, query: Query) -> None:
    model = shake(timm.create_model(name, depth=2, num_classes=3))
    size = model.patch_embed.img_size[0]
    images = torch.randn(2, 3, size, size)
    for training in (True, False):
        model.train(training)
        _compare(model, lambda: model(images), TIMM[name], query)


@pytest.mark.parametrize("fused", [True, False])
def test_timm_unfused_attention_reads_the_same(fused: bool) -> None:
    model = shake(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)).eval()
    for block in model.blocks:
        block.attn.fused_attn = fused
    _compare(model, lambda: model(torch.randn(2, 3, 32, 32)), 1, "cls")


def test_timm_qk_norm_and_grouped_queries() -> None:
    from timm.models.eva import Eva

    for options in ({"qk_norm": True}, {"qkv_fused": False}, {"qkv_fused": True, "use_abs_pos_emb": False}):
        model = shake(
            Eva(
                img_size=32, patch_size=8, depth=2, embed_dim=64, num_heads=4, use_rot_pos_emb=True, **options
            )
        ).eval()
        _compare(model, lambda model=model: model(torch.randn(2, 3, 32, 32)), 1, "mean")


@pytest.mark.slow
@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clip_logits_are_those_of_its_softmax(name: str) -> None:
    model = shake(open_clip.create_model(name))
    side = model.visual.image_size
    images = torch.randn(1, 3, *(side if isinstance(side, tuple) else (side, side)))
    for training in (True, False):
        model.train(training)
        with torch.no_grad():
            _compare(model, lambda: model.encode_image(images), 1, "cls")


@pytest.mark.slow
@pytest.mark.parametrize("query", ["cls", "mean"])
def test_torchvision_logits_are_those_of_its_softmax(query: Query) -> None:
    model = shake(torchvision.models.vit_b_16())
    images = torch.randn(1, 3, 224, 224)
    for training in (True, False):
        model.train(training)
        with torch.set_grad_enabled(training):
            _compare(model, lambda: model(images), 1, query)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_a_mask_is_refused(name: str) -> None:
    model = timm.create_model(name, img_size=32, depth=1)
    images = torch.randn(1, 3, 32, 32)
    with vitreg.trace(model, "attn_logits"):
        model(images)
        with pytest.raises(vitreg.UnsupportedModelError, match="mask"):
            model.blocks[0].attn(torch.randn(1, 5, model.embed_dim), attn_mask=torch.zeros(5, 5))


def test_an_attention_that_cannot_be_read_does_not_hide_its_block() -> None:
    from open_clip.transformer import VisionTransformer

    tower = VisionTransformer(32, 16, 32, 2, 2, 2.0, output_dim=8, scaled_cosine_attn=True)
    assert "scaled_cosine" in vitreg.describe(tower).extractors["attn_logits"]
    with pytest.raises(vitreg.UnsupportedModelError, match="scaled_cosine"):
        vitreg.attach(tower)
    vitreg.attach(tower, target="block_output").remove()
