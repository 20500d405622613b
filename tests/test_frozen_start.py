"""Any start with a frozen backbone: the penalty is zero, and joins when the backbone does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import TOWERS, make_clip, make_vit
from vitreg import StateError

TARGETS = ["attn_logits", "msa_output", "block_output", "features", "bss"]


class Classifier(nn.Module):
    """A backbone that runs without gradients while it is frozen, as many loops have it, and a head."""

    def __init__(self, no_grad: bool) -> None:
        super().__init__()
        self.vit, self.fc, self.no_grad = make_vit(num_classes=0), nn.Linear(16, 3), no_grad

    def forward(self, images: Tensor) -> Tensor:
        frozen = not any(p.requires_grad for p in self.vit.parameters())
        with torch.no_grad() if self.no_grad and frozen else nullcontext():
            features = self.vit(images)
        return self.fc(features)


@pytest.mark.parametrize("no_grad", [False, True])
@pytest.mark.parametrize("in_eval", [False, True])
@pytest.mark.parametrize("target", [*TARGETS, ["attn_logits", "bss", "l2sp"]])
def test_the_penalty_joins_when_the_backbone_does(
    target: str | list[str],
    in_eval: bool,
    no_grad: bool,
    images: Tensor,
    perturb: Callable[[nn.Module], None],
) -> None:
    source = Classifier(no_grad)
    model = copy.deepcopy(source).train()
    perturb(model)
    model.vit.requires_grad_(False)
    labels = torch.tensor([0, 1, 2, 0])
    with vitreg.attach(model, source, target) as attachment:
        if in_eval:
            model.vit.eval()  # as many do with what is frozen
        ran = []
        if attachment.source is not None:
            attachment.source.tower.module.register_forward_pre_hook(lambda *_: ran.append(1))
        for _ in range(2):
            loss = F.cross_entropy(model(images), labels) + attachment.penalty()
            loss.backward()
            for name, value in attachment.terms.items():
                assert value == 0 or name == "l2sp"  # which pulls the head
        assert not ran, "the source ran for nothing"
        model.zero_grad()
        model.vit.requires_grad_(True)
        model.train()
        model(images)
        joined = attachment.penalty()
    with vitreg.attach(model, source, target) as fresh:
        model(images)
        expected = fresh.penalty()
    assert expected > 0
    torch.testing.assert_close(joined, expected)
    joined.backward()
    assert model.vit.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", sorted(TOWERS))
def test_of_every_library(name: str, images: Tensor) -> None:
    model = nn.Sequential(TOWERS[name]().requires_grad_(False), nn.LazyLinear(3)).train()
    with torch.no_grad():
        model(images)
    with vitreg.attach(model, target=["attn_logits", "block_output"]) as attachment:
        model(images)
        value = attachment.penalty()
        assert (value.item(), value.requires_grad) == (0, False)


def test_gradual_unfreezing_from_the_top(images: Tensor, perturb: Callable[[nn.Module], None]) -> None:
    source = make_vit()
    model = copy.deepcopy(source).train()
    perturb(model)
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    with vitreg.attach(model, source, vitreg.GTA(layers=[0])) as attachment:
        for part in (model.norm, model.blocks[2], model.blocks[1]):
            part.requires_grad_(True)
            model(images)
            assert attachment.penalty() == 0
        model.blocks[0].requires_grad_(True)
        model(images)
        value = attachment.penalty()
        assert value > 0
        value.backward()


def test_what_is_trained_and_not_reached_is_still_an_error(images: Tensor) -> None:
    model = make_vit().train()
    model.blocks[0].register_forward_hook(lambda m, i, o: o.detach())
    model.blocks[1:].requires_grad_(False)
    with vitreg.attach(model, target=vitreg.FeatureGuide("block_output", layers=[2])) as attachment:
        model(images)
        with refuses(StateError, "none of which depends on a parameter that is trained", "Unfreeze"):
            attachment.penalty()


def test_a_pass_without_gradients_is_an_error_where_something_is_trained(images: Tensor) -> None:
    model = make_vit().train()
    with vitreg.attach(model) as attachment:
        with torch.no_grad():
            model(images)
        with refuses(StateError, "without gradients"):
            attachment.penalty()


def test_a_clip_whose_projection_alone_is_trained(images: Tensor) -> None:
    """As after open_clip's `lock_image_tower(unlocked_groups=1)`: nothing before the blocks is."""
    source = make_clip()
    model = copy.deepcopy(source).train()
    model.lock_image_tower(unlocked_groups=1)
    assert model.visual.proj.requires_grad
    with vitreg.attach(model, source, ["attn_logits", "block_output"]) as reg:
        model.encode_image(images)
        assert reg.penalty() == 0
        model.visual.requires_grad_(True)
        with torch.no_grad():
            model.visual.conv1.weight.mul_(2)
        model.encode_image(images)
        reg.penalty().backward()
        assert model.visual.conv1.weight.grad.abs().sum() > 0
