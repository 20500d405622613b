"""Tokens that differ between training and evaluation, or from batch to batch: read rightly, or refused."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import make_clip, make_vit
from vitreg import GTA, MismatchError, UnsupportedModelError


@pytest.mark.parametrize("target", ["attn_logits", "msa_output", "block_output"])
def test_dropped_patches_are_refused_when_the_penalty_is_taken(target: str, images: Tensor) -> None:
    model = make_vit(patch_drop_rate=0.25).train()
    with vitreg.attach(model, target=target) as reg:
        model(images)
        with refuses(MismatchError, "Token dropping", "patch_drop_rate", "must be off"):
            reg.penalty()


def test_dropped_patches_of_open_clip_are_refused_too(images: Tensor) -> None:
    clip = make_clip(patch_dropout=0.25).train()
    with vitreg.attach(clip) as reg:
        clip.encode_image(images)
        with refuses(MismatchError, "Token dropping", "patch_dropout", "must be off"):
            reg.penalty()


def test_what_drops_nothing_is_read(images: Tensor) -> None:
    model = make_vit(patch_drop_rate=0.25).train()
    model.patch_drop.prob = 0.0
    with vitreg.attach(model) as reg:
        model(images)
        assert reg.penalty().item() == 0


@pytest.mark.parametrize("size", [(32, 32), (48, 32), (40, 64)])
def test_a_size_that_the_model_allows_is_read_at_that_size(size: tuple[int, int]) -> None:
    model, source = make_vit(dynamic_img_size=True), make_vit(dynamic_img_size=True)
    images = torch.randn(2, 3, *size)
    readings = []
    for m in (model, source):
        with torch.no_grad(), vitreg.trace(m, "attn_logits") as trace:
            m.eval()(images)
        readings.append(trace["attn_logits"])
    assert readings[0][0].shape[-1] == size[0] // 8 * (size[1] // 8)
    expected = sum(F.mse_loss(a, b) for a, b in zip(*readings, strict=True)) / 3
    with vitreg.attach(model.train(), source) as reg:
        model(images)
        torch.testing.assert_close(reg.penalty(), expected)


def test_a_model_of_any_size_needs_a_source_of_any_size() -> None:
    with refuses(MismatchError, "patch grid: None in the model, (4, 4) in the source"):
        vitreg.attach(make_vit(dynamic_img_size=True), make_vit())
    model, source = make_vit(dynamic_img_size=True).train(), make_vit()
    with vitreg.attach(model, source, GTA(align="resample")) as reg:  # and sees pictures of its own size
        model(torch.randn(2, 3, 48, 64))
        assert reg.penalty() > 0


class Shuffle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        order = torch.randperm(x.shape[1] - 1) + 1 if self.training else torch.arange(1, x.shape[1])
        return torch.cat([x[:, :1], x[:, order]], 1)


@pytest.mark.parametrize("target", ["attn_logits", "msa_output", "block_output"])
def test_patches_that_are_shuffled_on_the_way(target: str, images: Tensor) -> None:
    model = make_vit()
    model.blocks[1] = nn.Sequential(OrderedDict(before=Shuffle(), attn=model.blocks[1].attn))
    with vitreg.attach(model.train(), target=target) as reg:
        model(images)
        with refuses(MismatchError, "tokens of model and source in one order"):
            reg.penalty()


def test_patches_that_a_tower_of_its_own_shuffles_on_the_way(images: Tensor) -> None:
    inner = make_vit()

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch_embed, self.blocks = inner.patch_embed, nn.ModuleList(inner.blocks)
            self.positions, self.shuffle = nn.Parameter(torch.randn(1, 17, 16)), Shuffle()

        def forward(self, x: Tensor) -> Tensor:
            x = F.pad(self.patch_embed(x), (0, 0, 1, 0)) + self.positions
            for i, block in enumerate(self.blocks):
                x = block(self.shuffle(x) if i == 1 else x)
            return x

    model = Own().train()
    with vitreg.attach(model, target="block_output") as reg:
        model(images)
        with refuses(MismatchError, "tokens of model and source in one order"):
            reg.penalty()


def test_patches_that_were_cut_before_are_no_pictures() -> None:
    from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

    cfg = NaFlexVitCfg(patch_size=8, embed_dim=16, depth=2, num_heads=2, pos_embed_grid_size=(4, 4))
    model = NaFlexVit(cfg, num_classes=5).train()
    patches = {
        "patches": torch.randn(2, 16, 8 * 8 * 3),
        "patch_coord": torch.stack(torch.meshgrid(*[torch.arange(4)] * 2, indexing="ij"), -1)
        .view(1, 16, 2)
        .expand(2, -1, -1),
        "patch_valid": torch.ones(2, 16, dtype=torch.bool),
    }
    for target in ("attn_logits", "msa_output", "block_output"):
        options = {"query": "mean"} if target == "attn_logits" else {}
        with vitreg.attach(model, target=target, **options) as reg:
            model(torch.randn(2, 3, 32, 48))
            assert reg.penalty().item() == 0
            with refuses(
                UnsupportedModelError, "a batch of images [b, c, height, width]", "found [2, 16, 192]"
            ):
                model(patches)
