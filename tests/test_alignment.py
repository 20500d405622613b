"""A source that differs from the model: refused, unless the difference was asked for."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitreg
from laws import refuses, unchanged
from small_models import make_vit
from vitreg import GTA, L2SP, ArgumentError, FeatureGuide, MismatchError


def values(model: nn.Module, images: Tensor, name: str = "attn_logits") -> list[Tensor]:
    with torch.no_grad(), vitreg.trace(model, name) as trace:
        model(images)
    return trace[name]


def penalty(model: nn.Module, source: nn.Module, target: object, images: Tensor) -> Tensor:
    with vitreg.attach(model.train(), source, target) as reg:
        model(images)
        total = reg.penalty()
    total.backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
    return total.detach()


# Another depth


def test_layers_pair_blocks_of_model_and_source(images: Tensor) -> None:
    model, source = make_vit(depth=3).eval(), make_vit(depth=5).eval()
    ours, theirs = values(model, images), values(source, images)
    expected = (F.mse_loss(ours[0], theirs[1]) + F.mse_loss(ours[2], theirs[4])) / 2
    torch.testing.assert_close(penalty(model, source, GTA(layers={0: 1, -1: 4}), images), expected)


def test_two_blocks_of_the_model_may_share_one_of_the_source(images: Tensor) -> None:
    model, source = make_vit(depth=3).eval(), make_vit(depth=2).eval()
    ours, theirs = values(model, images), values(source, images)
    expected = sum(F.mse_loss(ours[i], theirs[1]) for i in (0, 1, 2)) / 3
    torch.testing.assert_close(
        penalty(model, source, GTA(layers=dict.fromkeys(range(3), 1)), images), expected
    )


def test_layers_by_name(images: Tensor) -> None:
    model, source = make_vit(depth=3), make_vit(depth=5)
    with vitreg.attach(model.train(), source, layers={0: 0, 2: 4}) as reg:
        model(images)
        assert reg.penalty() > 0
        assert "reads attn_logits of blocks 0, 2" in repr(reg)


@pytest.mark.parametrize(
    ("layers", "words"),
    [({3: 0}, "3 blocks"), ({0: 5}, "5 blocks"), ({0: 0, -3: 1}, "twice"), ({}, "selects none")],
)
def test_pairs_that_do_not_exist(layers: dict[int, int], words: str) -> None:
    model = make_vit(depth=3)
    with unchanged(model), refuses(ArgumentError, words):
        vitreg.attach(model, make_vit(depth=5), layers=layers)


# Another number of heads


def test_heads_are_compared_by_their_mean(images: Tensor) -> None:
    model, source = make_vit(num_heads=2).eval(), make_vit(num_heads=4).eval()
    expected = sum(
        F.mse_loss(a.mean(1), b.mean(1))
        for a, b in zip(values(model, images), values(source, images), strict=True)
    )
    torch.testing.assert_close(penalty(model, source, GTA(heads="mean"), images), expected / 3)


def test_another_width_matters_to_tokens_only(images: Tensor) -> None:
    model, source = make_vit(), make_vit(embed_dim=32, num_heads=4)
    assert penalty(model, source, GTA(heads="mean"), images) > 0
    with refuses(MismatchError, "width: 16 in the model, 32 in the source"):
        vitreg.attach(model, source, FeatureGuide("msa_output", align="resample"))


# Another patch grid


def test_the_same_images_on_another_grid(images: Tensor) -> None:
    model, source = make_vit(patch_size=8).eval(), make_vit(patch_size=4).eval()
    ours, theirs = values(model, images), values(source, images)
    assert (ours[0].shape[-1], theirs[0].shape[-1]) == (16, 64)
    coarser = [
        F.interpolate(t.unflatten(-1, (8, 8)), (4, 4), mode="bilinear", antialias=True).flatten(2)
        for t in theirs
    ]
    expected = sum(F.mse_loss(a, b) for a, b in zip(ours, coarser, strict=True)) / 3
    torch.testing.assert_close(penalty(model, source, GTA(align="resample"), images), expected)


def test_the_source_sees_images_of_its_own_size(images: Tensor) -> None:
    model, source = make_vit(img_size=32).eval(), make_vit(img_size=48).eval()
    larger = F.interpolate(images, (48, 48), mode="bicubic", antialias=True)
    ours, theirs = values(model, images), values(source, larger)
    smaller = [
        F.interpolate(t.unflatten(-1, (6, 6)), (4, 4), mode="bilinear", antialias=True).flatten(2)
        for t in theirs
    ]
    expected = sum(F.mse_loss(a, b) for a, b in zip(ours, smaller, strict=True)) / 3
    torch.testing.assert_close(penalty(model, source, GTA(align="resample"), images), expected)


@pytest.mark.parametrize("name", ["attn_probs", "msa_output", "block_output"])
def test_other_readings_are_resampled_too(name: str, images: Tensor) -> None:
    model, source = make_vit(patch_size=8), make_vit(patch_size=4)
    assert penalty(model, source, FeatureGuide(name, align="resample"), images) > 0


def test_registers_of_the_source_are_no_patches(images: Tensor) -> None:
    model, source = make_vit(), make_vit(reg_tokens=4, patch_size=4)
    assert penalty(model, source, GTA(align="resample"), images) > 0


def test_a_picture_that_is_not_square() -> None:
    model = make_vit(img_size=(32, 48), dynamic_img_size=True)
    source = make_vit(img_size=(32, 48), patch_size=4, dynamic_img_size=True)
    assert penalty(model, source, GTA(align="resample"), torch.randn(2, 3, 32, 48)) > 0


def test_equal_grids_are_left_as_they_are(images: Tensor) -> None:
    model, source = make_vit(), make_vit()
    plain = penalty(copy.deepcopy(model), source, GTA(), images)
    torch.testing.assert_close(penalty(model, source, GTA(align="resample"), images), plain, rtol=0, atol=0)


def test_dropped_patches_cannot_be_resampled(images: Tensor) -> None:
    model, source = make_vit(patch_drop_rate=0.5), make_vit(patch_size=4)
    with vitreg.attach(model.train(), source, align="resample") as reg:
        model(images)
        with refuses(MismatchError, "Token dropping"):
            reg.penalty()


# All of it at once, and nothing of it unasked


def test_all_differences_at_once(images: Tensor) -> None:
    model, source = make_vit(), make_vit(depth=5, num_heads=4, embed_dim=32, patch_size=4, reg_tokens=2)
    target = GTA(layers={0: 0, 1: 2, 2: 4}, heads="mean", align="resample")
    assert penalty(model, source, target, images) > 0


@pytest.mark.parametrize(
    ("options", "asked", "words"),
    [
        ({"depth": 5}, {}, "blocks: 3 in the model, 5 in the source"),
        ({"depth": 5}, {"heads": "mean", "align": "resample"}, "blocks: 3 in the model, 5 in the source"),
        ({"num_heads": 4}, {}, "heads: 2 in the model, 4 in the source"),
        ({"num_heads": 4}, {"align": "resample"}, "heads: 2 in the model, 4 in the source"),
        ({"patch_size": 4}, {}, "patch grid: (4, 4) in the model, (8, 8) in the source"),
        ({"img_size": 48}, {"heads": "mean"}, "patch grid: (4, 4) in the model, (6, 6) in the source"),
        ({"reg_tokens": 2}, {}, "prefix tokens: 1 in the model, 3 in the source"),
    ],
)
def test_what_was_not_asked_for_is_refused(options: dict, asked: dict, words: str) -> None:
    model, source = make_vit(), make_vit(**options)
    with (
        unchanged(model),
        unchanged(source),
        refuses(MismatchError, words, "ask for it", "layers=", "heads="),
    ):
        vitreg.attach(model, source, **asked)


def test_every_penalty_has_to_ask() -> None:
    model, source = make_vit(), make_vit(num_heads=4)
    with refuses(MismatchError, "heads: 2 in the model"):
        vitreg.attach(model, source, [GTA(heads="mean"), L2SP()])
    with refuses(MismatchError, "heads: 2 in the model"):
        vitreg.attach(model, source, [GTA(heads="mean"), FeatureGuide("attn_probs")])
    vitreg.attach(model, source, [GTA(heads="mean"), "bss"]).remove()  # which looks at no source


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (FeatureGuide("msa_output", heads="mean"), "has no heads"),
        (FeatureGuide("features", align="resample"), "has none"),
        (FeatureGuide("features", layers={0: 0}), "takes no layers"),
    ],
)
def test_options_without_a_meaning(target: object, words: str) -> None:
    with refuses(ArgumentError, words):
        vitreg.attach(make_vit(), make_vit(), target)


@pytest.mark.parametrize("option", ["align", "heads"])
def test_unknown_choices(option: str) -> None:
    with refuses(ArgumentError, f"{option} must be one of", "'other'"):
        vitreg.attach(make_vit(), **{option: "other"})


def test_a_source_of_another_class(images: Tensor) -> None:
    from small_models import TOWERS

    model, source = make_vit(), TOWERS["timm_eva"]()
    with refuses(MismatchError, "class: timm.models.vision_transformer.VisionTransformer in the model"):
        vitreg.attach(model, source)
    assert penalty(model, source, GTA(heads="mean"), images) > 0
