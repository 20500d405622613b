"""Several forward passes before one penalty: each counts, or it is said which do."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import make_vit
from vitreg import ArgumentError, StateError, UnsupportedModelError

Pair = tuple[nn.Module, nn.Module]


class MultiCrop(nn.Module):
    """Runs its backbone once for each resolution, as DINO's wrapper does."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, crops: list[Tensor]) -> Tensor:
        return torch.cat([self.backbone(crop) for crop in crops])


@pytest.fixture
def any_size(perturb: Callable[[nn.Module], None]) -> Pair:
    source = make_vit(dynamic_img_size=True)
    model = copy.deepcopy(source).train()
    perturb(model)
    return model, source


@pytest.fixture
def crops() -> list[Tensor]:
    return [torch.randn(4, 3, 32, 32), torch.randn(6, 3, 16, 16)]


def literal(model: nn.Module, source: nn.Module, images: Tensor) -> float:
    """Return GTA of one batch by two traces, in float64."""
    with torch.no_grad():
        with vitreg.trace(model, "attn_logits") as ours:
            model(images)
        with vitreg.trace(source, "attn_logits") as theirs:
            source.eval()(images)
    pairs = zip(ours["attn_logits"], theirs["attn_logits"], strict=True)
    return float(sum(F.mse_loss(a.double(), b.double()) for a, b in pairs) / 3)


@pytest.mark.parametrize("passes", [None, "all"])
def test_a_pass_that_an_error_ended_does_not_count(pair: Pair, images: Tensor, passes: str | None) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    model, source = pair
    with vitreg.attach(model, source, passes=passes) as attachment:
        handle = model.norm.register_forward_hook(full)  # where all has been read
        with pytest.raises(torch.OutOfMemoryError):
            model(images)
        handle.remove()
        model(images[:2])
        value = attachment.penalty()
    assert value.item() == pytest.approx(literal(model, source, images[:2]), rel=1e-5)


@pytest.mark.parametrize("attached", ["the wrapper", "the backbone"])
@pytest.mark.parametrize("passes", [None, "all"])
def test_multi_crop_is_the_mean_over_images(
    any_size: Pair, crops: list[Tensor], attached: str, passes: str | None
) -> None:
    model, source = any_size
    wrapper = MultiCrop(model).train()
    expected = [literal(model, source, images) for images in crops]
    with vitreg.attach(wrapper if attached == "the wrapper" else model, source, passes=passes) as reg:
        for _ in range(2):
            wrapper(crops)
            value = reg.penalty()
            assert value.item() == pytest.approx((4 * expected[0] + 6 * expected[1]) / 10, rel=1e-5)
        value.backward()
    assert all(block.attn.qkv.weight.grad.abs().sum() > 0 for block in model.blocks)


def test_the_gradient_is_that_of_both(any_size: Pair, crops: list[Tensor]) -> None:
    model, source = any_size
    parameters = list(model.blocks.parameters())
    with vitreg.attach(model, source) as reg:
        sums = None
        for images, share in zip(crops, (0.4, 0.6), strict=True):
            model(images)
            found = torch.autograd.grad(share * reg.penalty(), parameters, allow_unused=True)
            sums = (
                found
                if sums is None
                else [None if a is None else a + b for a, b in zip(sums, found, strict=True)]
            )
        MultiCrop(model)(crops)
        both = torch.autograd.grad(reg.penalty(), parameters, allow_unused=True)
    for one, other in zip(both, sums, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other)


def test_the_last_alone_if_so_said(any_size: Pair, crops: list[Tensor]) -> None:
    model, source = any_size
    with vitreg.attach(model, source, passes="last") as reg:
        MultiCrop(model)(crops)
        assert reg.penalty().item() == pytest.approx(literal(model, source, crops[1]), rel=1e-5)


def test_r_drop(pair: Pair, images: Tensor) -> None:
    model, source = pair
    values = []
    with vitreg.attach(model, source) as reg:
        for rate in (0.5, 0.5, None):
            for block in model.blocks:
                block.mlp.drop1.p = rate or 0.0
            torch.manual_seed(len(values))
            model(images)
            values.append(reg.penalty().item())
        for block in model.blocks:
            block.mlp.drop1.p = 0.5
        for seed in (0, 1):
            torch.manual_seed(seed)
            model(images)
        assert reg.penalty().item() == pytest.approx((values[0] + values[1]) / 2, rel=1e-6)
    assert values[0] != values[1] != values[2]


def test_a_penalty_without_a_source(any_size: Pair, crops: list[Tensor]) -> None:
    model, _ = any_size
    with vitreg.attach(model, target="bss") as reg:
        each = []
        for images in crops:
            model(images)
            each.append(reg.penalty().item())
        MultiCrop(model)(crops)
        assert reg.penalty().item() == pytest.approx(0.4 * each[0] + 0.6 * each[1], rel=1e-5)


@pytest.mark.parametrize("progress", ["a step", "a backward pass"])
def test_a_pass_that_belongs_to_a_step_of_its_own(pair: Pair, images: Tensor, progress: str) -> None:
    model, source = pair
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with vitreg.attach(model, source) as reg:
        for scale in (1, 2, 3):  # steps before the penalty joins, or all but the last of accumulated ones
            model(scale * images).sum().backward()
            if progress == "a step":
                optimizer.step()
                optimizer.zero_grad()
        model(5 * images)
        value = reg.penalty()
        assert value.item() == pytest.approx(literal(model, source, 5 * images), rel=1e-5)
        value.backward()


@pytest.mark.parametrize("target", ["attn_logits", "msa_output", "features"])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("how", ["a step that is skipped", "weights written by .data", "torch.autograd.grad"])
def test_a_backward_pass_that_leaves_no_gradient(
    how: str, checkpointed: bool, target: str, pair: Pair, images: Tensor
) -> None:
    model, source = pair
    model.set_grad_checkpointing(checkpointed)
    with vitreg.attach(model, source, target) as reg:
        for scale in (1, 2):
            loss = model(scale * images).square().sum()
            if how == "torch.autograd.grad":
                torch.autograd.grad(loss, list(model.parameters()))
                continue
            loss.backward()
            for parameter in model.parameters() if "written" in how else ():
                parameter.data -= 1e-3 * parameter.grad
            model.zero_grad()
        model(5 * images)
        value = reg.penalty()
        value.backward()
        model.zero_grad()
        model(5 * images)
        assert reg.penalty().item() == pytest.approx(value.item(), rel=1e-5)
        if target == "attn_logits":
            assert value.item() == pytest.approx(literal(model, source, 5 * images), rel=1e-5)


@pytest.mark.parametrize("passes", [None, "all", "last"])
def test_the_penalty_comes_before_the_backward_pass(passes: str | None, pair: Pair, images: Tensor) -> None:
    model, source = pair
    with vitreg.attach(model, source, passes=passes) as reg:
        model(images).sum().backward()
        with refuses(StateError, "before the backward pass", "has freed", "retain_graph=True", "no_grad()"):
            reg.penalty()
        model(images).sum().backward(retain_graph=True)
        value = reg.penalty()
        value.backward()
        assert value.item() == pytest.approx(literal(model, source, images), rel=1e-5)
        model(images).sum().backward()
        with torch.no_grad():
            assert reg.penalty().item() == pytest.approx(value.item(), rel=1e-6)


def test_passes_that_pile_up_are_not_kept(pair: Pair, images: Tensor) -> None:
    model, source = pair
    with vitreg.attach(model, source) as reg:
        for _ in range(8):
            model(images)
        assert reg.penalty().item() == pytest.approx(literal(model, source, images), rel=1e-5)
        for _ in range(20):
            model(images)
        with refuses(StateError, "one forward pass since the last penalty", "passes='all'", "passes='last'"):
            reg.penalty()
        model(images)
        assert reg.penalty() > 0
    with vitreg.attach(model, source, passes="all") as reg:
        for _ in range(20):
            model(images)
        assert reg.penalty().item() == pytest.approx(literal(model, source, images), rel=1e-5)


def test_views_of_several_passes(pair: Pair, images: Tensor) -> None:
    model, source = pair
    others = torch.randn(2, 3, 32, 32)
    cached = vitreg.CachedSource(source, 8)
    with vitreg.attach(model, cached) as reg:
        for _ in range(2):
            model(images)
            model(others)
            expected = (4 * literal(model, source, images) + 2 * literal(model, source, others)) / 6
            assert reg.penalty(views=[0, 3, 1, 2, 7, 5]).item() == pytest.approx(expected, rel=1e-5)


def test_a_pass_inside_vmap(pair: Pair, images: Tensor) -> None:
    model, source = pair
    with vitreg.attach(model, source) as reg:
        for images_in_vmap in (images[None], images[:, None]):
            with refuses(UnsupportedModelError, "found one inside torch.vmap", "whole batch"):
                torch.vmap(model, randomness="different")(images_in_vmap)
        gradient = torch.func.grad(lambda shift: model(images + shift).sum() + reg.penalty())(torch.zeros(1))
        assert gradient.isfinite()


@pytest.mark.parametrize("wrong", ["first", 2, True])
def test_which_passes_is_a_word(wrong: object) -> None:
    with refuses(ArgumentError, "passes must be one of", "'last', 'all'", repr(wrong)):
        vitreg.attach(make_vit(), passes=wrong)


@pytest.mark.slow
def test_a_compiled_model_has_to_say_it(any_size: Pair, crops: list[Tensor]) -> None:
    model, source = any_size
    expected = [literal(model, source, images) for images in crops]
    wrapper = MultiCrop(model).train()
    with vitreg.attach(wrapper, source) as reg:
        torch.compiler.reset()
        compiled = torch.compile(wrapper, backend="eager")
        compiled(crops)
        with refuses(StateError, "one forward pass since the last penalty", "compiled", "passes='all'"):
            reg.penalty()
    with vitreg.attach(wrapper, source, passes="all") as reg:
        torch.compiler.reset()
        compiled = torch.compile(wrapper, backend="eager")
        for _ in range(2):
            compiled(crops)
            found = reg.penalty().item()
            assert found == pytest.approx((4 * expected[0] + 6 * expected[1]) / 10, rel=1e-5)
