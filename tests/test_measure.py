"""Measures of attention against what enters each model's own softmax."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import TOWERS, make_clip, make_vit, shake
from softmax_recorder import SoftmaxRecorder
from vitreg import ArgumentError, MismatchError, UnsupportedModelError, measure


def matrices(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the attention [b, h, n, n] of each block, recorded independently."""
    with torch.no_grad(), SoftmaxRecorder() as recorder:
        copy.deepcopy(model).eval()(images)
    return [logits.softmax(-1) for logits in recorder.logits]


def mode_of(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("make", TOWERS.values(), ids=TOWERS)
def test_maps_are_the_rows_of_the_softmax(make: Callable[[], nn.Module], images: Tensor) -> None:
    model = shake(make()).train()
    model.blocks[0].eval() if hasattr(model, "blocks") else None
    before = mode_of(model)
    maps = measure.attention_maps(model, images)
    assert mode_of(model) == before
    expected = matrices(model, images)
    assert len(maps) == len(expected) == 3
    for value, matrix in zip(maps, expected, strict=True):
        prefix = matrix.shape[-1] - 16
        assert value.shape == (len(images), 2, 4, 4)
        assert not value.requires_grad
        torch.testing.assert_close(value.flatten(-2), matrix[:, :, 0, prefix:])


@pytest.mark.parametrize("make", TOWERS.values(), ids=TOWERS)
def test_rollout_against_the_recorded_matrices(make: Callable[[], nn.Module], images: Tensor) -> None:
    model = shake(make())
    blocks = [0.5 * m.mean(1) + 0.5 * torch.eye(m.shape[-1]) for m in matrices(model, images)]
    product = blocks[2] @ blocks[1] @ blocks[0]
    got = measure.attention_rollout(model, images)
    torch.testing.assert_close(got.flatten(1), product[:, 0, -16:])
    mean = measure.attention_rollout(model, images, query="mean")
    torch.testing.assert_close(mean.flatten(1), product[:, -16:, -16:].mean(1))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_pictures_that_are_not_square() -> None:
    model = shake(make_vit(img_size=(16, 32)))
    images = torch.randn(2, 3, 16, 32)
    maps, rollout = measure.attention_maps(model, images, layers=-1), measure.attention_rollout(model, images)
    assert maps[0].shape == (2, 2, 2, 4)
    assert rollout.shape == (2, 2, 4)
    left = torch.zeros(2, 16, 32, dtype=torch.bool)
    left[:, :, :16] = True
    shares = measure.object_share(model, images, left, layers=-1)[0]
    mean = maps[0].mean(1)
    torch.testing.assert_close(shares, mean[..., :2].sum((1, 2)) / mean.sum((1, 2)))


def test_boxes_are_masks(images: Tensor) -> None:
    model = shake(make_vit())
    boxes = torch.tensor([[4.0, 0.0, 20.0, 32.0], [0.0, 8.0, 32.0, 9.0]])[torch.arange(len(images)) % 2]
    masks = torch.zeros(len(images), 32, 32, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    by_mask = measure.object_share(model, images, masks)
    assert by_mask.shape == (3, len(images))
    assert torch.equal(measure.object_share(model, images, boxes), by_mask)
    everything = torch.ones_like(masks)
    torch.testing.assert_close(measure.object_share(model, images, everything), torch.ones(3, len(images)))


def test_a_patch_that_is_covered_in_part_counts_in_part(images: Tensor) -> None:
    model = shake(make_vit())
    half = torch.zeros(len(images), 32, 32, dtype=torch.bool)
    half[:, :, ::2] = True  # half of every patch
    torch.testing.assert_close(measure.object_share(model, images, half), torch.full((3, len(images)), 0.5))


def test_drift(images: Tensor, perturb: Callable[[nn.Module], None]) -> None:
    source = shake(make_vit())
    model = copy.deepcopy(source)
    assert measure.attention_drift(model, source, images).abs().max() == 0
    perturb(model)
    drift = measure.attention_drift(model, source, images)
    assert drift.shape == (3,)
    for value, ours, theirs in zip(drift, matrices(model, images), matrices(source, images), strict=True):
        total = 0.0
        for one, other in zip(
            ours[:, :, 0, 1:].flatten(0, 1), theirs[:, :, 0, 1:].flatten(0, 1), strict=True
        ):
            total += float((one / one.sum() - other / other.sum()).abs().sum()) / 2
        assert float(value) == pytest.approx(total / (len(images) * 2), rel=1e-4)
    assert 0 < float(drift.max()) < 1
    assert measure.attention_drift(model, source, images, layers=[2]).tolist() == drift[2:].tolist()


def test_an_attached_model_keeps_its_penalty(images: Tensor, perturb: Callable[[nn.Module], None]) -> None:
    model = make_vit().train()
    with vitreg.attach(model) as reg:
        perturb(model)
        model(images)
        measure.attention_maps(model, images + 1)
        measure.attention_rollout(model, images + 1)
        value = reg.penalty()
        model(images)
        assert value == reg.penalty()


def test_a_model_inside_another(images: Tensor) -> None:
    clip = make_clip()
    whole, tower = measure.attention_maps(clip, images), measure.attention_maps(clip.visual, images)
    assert all(torch.equal(one, other) for one, other in zip(whole, tower, strict=True))


def test_models_without_a_class_token(images: Tensor) -> None:
    model = make_vit(class_token=False, global_pool="avg")
    with refuses(UnsupportedModelError, "class token", "query='mean'"):
        measure.attention_maps(model, images)
    with refuses(UnsupportedModelError, "rollout", 'query="mean"'):
        measure.attention_rollout(model, images)
    assert measure.attention_maps(model, images, query="mean")[0].shape == (len(images), 2, 4, 4)
    assert measure.attention_rollout(model, images, query="mean").shape == (len(images), 4, 4)


def test_what_cannot_be_measured_is_refused(images: Tensor) -> None:
    model = make_vit()
    for wrong in (images[0], images.byte(), "picture"):
        for function in (measure.attention_maps, measure.attention_rollout):
            with refuses(ArgumentError, "batch of images"):
                function(model, wrong)
    with refuses(ArgumentError, "query"):
        measure.attention_maps(model, images, query="dog")
    for wrong in (torch.ones(len(images), 32, 32), torch.ones(1, 5), None, torch.ones(len(images), 4) > 0):
        with refuses(ArgumentError, "bool masks", "boxes"):
            measure.object_share(model, images, wrong)
    with refuses(ArgumentError, "hold none of their object"):
        measure.object_share(model, images, torch.zeros(len(images), 32, 32, dtype=torch.bool))
    for layers in ("all", -1):
        with refuses(MismatchError, "3 in the model and 2 in the source"):
            measure.attention_drift(model, make_vit(depth=2), images, layers=layers)
    with refuses(MismatchError, "[2, 1, 4, 4]" if len(images) == 2 else "1, 4, 4]"):
        measure.attention_drift(model, make_vit(num_heads=1), images)
    with refuses(ArgumentError, "batch of images"):
        measure.attention_drift(model, model, images[:0])
    late = timm.create_model("cait_xxs24_224", depth=2, img_size=32, depth_token_only=2)
    with refuses(UnsupportedModelError, "rollout", "attention_maps"):
        measure.attention_rollout(late, images)


class Merging(nn.Linear):
    """A layer that merges an adapter in its own `train`, as some do."""

    merged = False

    def train(self, mode: bool = True) -> Merging:
        self.merged = not mode
        return super().train(mode)


def test_a_train_method_of_somebodys_own_is_not_called(images: Tensor) -> None:
    model = make_vit()
    model.head = Merging(16, 5)
    model.train()
    measure.attention_maps(model, images)
    assert model.head.training
    assert not model.head.merged


def test_dropout_is_off_and_modes_come_back_after_an_error(images: Tensor) -> None:
    torch.manual_seed(0)
    model = shake(make_vit(drop_rate=0.5, proj_drop_rate=0.5, pos_drop_rate=0.5)).train()
    expected = matrices(model, images)
    state = torch.get_rng_state()
    for value, matrix in zip(measure.attention_maps(model, images), expected, strict=True):
        torch.testing.assert_close(value.flatten(-2), matrix[:, :, 0, 1:])
    assert measure.attention_drift(model, model, images).abs().max() == 0
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(AssertionError):
        measure.attention_maps(model, torch.randn(1, 3, 20, 20))  # timm's own refusal of the size
    assert all(mode_of(model))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_pixels_in_no_patch_do_not_count() -> None:
    model = shake(make_vit(img_size=40, patch_size=16))
    images = torch.randn(1, 3, 40, 40)
    maps = measure.attention_maps(model, images, layers=-1)[0].mean(1)
    corner = torch.zeros(1, 40, 40, dtype=torch.bool)
    corner[:, 16:32, 16:32] = True  # one patch
    share = measure.object_share(model, images, corner, layers=-1)
    torch.testing.assert_close(share[0], maps[:, 1, 1] / maps.sum((1, 2)))
    beside = torch.zeros(1, 40, 40, dtype=torch.bool)
    beside[:, 33:] = True
    with refuses(ArgumentError, "hold none of their object"):
        measure.object_share(model, images, beside)


def test_grids_that_are_pooled_on_the_way_and_the_pooling(images: Tensor) -> None:
    pit = timm.create_model("pit_ti_224", img_size=64)
    grids = {tuple(value.shape[-2:]) for value in measure.attention_maps(pit, torch.randn(1, 3, 64, 64))}
    assert len(grids) == 3
    with refuses(UnsupportedModelError, "rollout"):
        measure.attention_rollout(pit, torch.randn(1, 3, 64, 64))
    pooled = make_vit(class_token=False, global_pool="map")
    assert measure.attention_maps(pooled, images, query="pool")[0].shape == (len(images), 2, 4, 4)


def test_what_a_head_combines_is_no_attention_to_roll_out(images: Tensor) -> None:
    with refuses(UnsupportedModelError, "combines 2 softmaxes"):
        measure.attention_rollout(make_vit(attn_layer="diff"), images)
    shared = make_vit(qk_norm=True)
    for block in shared.blocks:
        block.attn.k_norm = block.attn.q_norm
    with refuses(UnsupportedModelError, "one that stands for two"):
        measure.attention_rollout(shared, images)


def test_drift_from_the_source_of_an_attachment(images: Tensor, perturb: Callable[[nn.Module], None]) -> None:
    model = shake(make_vit())
    start = copy.deepcopy(model)
    with vitreg.attach(model) as reg:
        perturb(model)
        drift = measure.attention_drift(model, reg.source, images)
    assert torch.equal(drift, measure.attention_drift(model, start, images))


def test_autocast_is_that_of_the_caller(images: Tensor) -> None:
    model = shake(make_vit())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = measure.attention_maps(model, images)
    exact = measure.attention_maps(model, images)
    assert all(value.dtype == torch.float32 for value in rounded)
    assert not torch.equal(rounded[-1], exact[-1])
