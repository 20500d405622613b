"""What TransMix refuses: options, models and passes; and when it is gone."""

import copy
import gc
import pickle
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from laws import num_hooks, refuses, unchanged
from vitreg import ArgumentError, StateError, TransMix, UnsupportedModelError


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("num_classes", 1, "at least 2"),
        ("num_classes", 2.0, "whole number"),
        ("num_classes", True, "whole number"),
        ("prob", 1.5, "between 0 and 1"),
        ("switch_prob", -0.1, "between 0 and 1"),
        ("smoothing", float("nan"), "between 0 and 1"),
        ("smoothing", "much", "between 0 and 1"),
        ("mixup_alpha", -1.0, "at least 0"),
        ("cutmix_alpha", float("nan"), "at least 0"),
        ("cutmix_alpha", None, "at least 0"),
    ],
)
def test_bad_options(vit: object, option: str, value: object, part: str) -> None:
    model = vit()
    with unchanged(model), refuses(ArgumentError, option, part, "got", repr(value)):
        TransMix(model, **{"num_classes": 5, option: value})


def test_both_switched_off(vit: object) -> None:
    with refuses(ArgumentError, "not both 0"):
        TransMix(vit(), num_classes=5, mixup_alpha=0.0, cutmix_alpha=0.0)


def test_no_class_token(vit: object) -> None:
    model = vit(class_token=False, global_pool="avg")
    with (
        unchanged(model),
        refuses(
            UnsupportedModelError, "needs a class token", "VisionTransformer has none", "timm.data.Mixup"
        ),
    ):
        TransMix(model, num_classes=5)


def test_a_wrong_size_for_every_library(tower_model: nn.Module, labels: Tensor) -> None:
    with unchanged(tower_model), TransMix(tower_model, num_classes=5) as mix:
        with refuses(ArgumentError, "4×4 patches", "64×64"):
            mix(torch.randn(4, 3, 64, 64), labels)
        mixed, _ = mix(torch.randn(4, 3, 32, 32), labels)
        tower_model(mixed)
        torch.testing.assert_close(mix.labels().sum(1), torch.ones(4))


def test_a_pass_before_the_mix_does_not_count() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=5).train()
    x = torch.randn(2, 3, 32, 32)
    with TransMix(model, num_classes=5) as mix:
        early = model(x)
        mix(x, torch.tensor([0, 1]))
        with pytest.raises(StateError, match="since the batch was mixed"):
            mix.loss(early)


def test_dropped_patches_that_form_a_square_are_refused() -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, depth=1, num_classes=5, patch_drop_rate=0.75
    )
    x = torch.randn(2, 3, 64, 64)
    with TransMix(model.train(), num_classes=5, mixup_alpha=0) as mix:
        mixed, _ = mix(x, torch.tensor([0, 1]))
        with pytest.raises(StateError, match="patch_drop_rate"):
            mix.loss(model(mixed))


def test_one_that_nobody_keeps_removes_itself() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=5)
    TransMix(model, num_classes=5)
    gc.collect()
    assert num_hooks(model) == 0


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda mix: pickle.loads(pickle.dumps(mix))])
def test_a_copy_is_not_attached(
    duplicate: Callable[[TransMix], TransMix], vit: object, images: Tensor, labels: Tensor
) -> None:
    model = vit().train()
    with TransMix(model, num_classes=5, smoothing=0.3) as mix:
        mixed, _ = mix(images, labels)
        twin = duplicate(mix)
        assert twin.smoothing == 0.3
        with refuses(StateError, "was removed", "make another one"):
            twin(images, labels)
        with refuses(StateError, "Nothing was mixed"):
            twin.labels()
        twin.remove()
        assert mix.loss(model(mixed)) > 0


def test_an_empty_batch(vit: object) -> None:
    with (
        TransMix(vit().train(), num_classes=5) as mix,
        refuses(ArgumentError, "even batch", "[0, 3, 32, 32]"),
    ):
        mix(torch.zeros(0, 3, 32, 32), torch.zeros(0, dtype=torch.long))
