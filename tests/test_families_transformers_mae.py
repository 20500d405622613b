"""MAE of transformers draws a new order of patches in every pass; what is read has the picture's order."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses, unchanged
from small_models import shake
from softmax_recorder import SoftmaxRecorder
from transformers_cases import PATCHES, SIZES
from vitreg.families import find_tower

hf = pytest.importorskip("transformers")

DECODER = {f"decoder_{name}": size for name, size in SIZES.items()}


def make(cls: str = "ViTMAEModel", mask_ratio: float = 0.0, implementation: str = "sdpa") -> nn.Module:
    config = hf.ViTMAEConfig(**SIZES, **PATCHES, **DECODER, mask_ratio=mask_ratio)
    return shake(getattr(hf, cls)._from_config(config, attn_implementation=implementation)).train()


def in_order(tokens: Tensor, restore: Tensor) -> Tensor:
    """Bring [b, 1 + p, d] back to the picture's order, image by image."""
    rows = [torch.cat([one[:1], one[1:][order]]) for one, order in zip(tokens, restore, strict=True)]
    return torch.stack(rows)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("query", ["cls", "mean"])
def test_logits_are_those_of_the_softmax_in_order(implementation: str, query: str) -> None:
    model = make(implementation=implementation)
    with SoftmaxRecorder() as recorder, vitreg.trace(model, "attn_logits", query=query) as read:
        restore = model(torch.randn(2, 3, 32, 32)).ids_restore
    assert not torch.equal(restore, torch.arange(16).expand(2, -1)), "nothing is shuffled"
    for ours, whole in zip(read["attn_logits"], recorder.logits, strict=True):
        row = whole[:, :, 0] if query == "cls" else whole[:, :, 1:].mean(2)
        expected = in_order(row.transpose(1, 2), restore)[:, 1:].transpose(1, 2)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_outputs_are_in_order() -> None:
    model = make()
    find_tower(model)
    returned: list[Tensor] = []
    layer = model.layers[1]
    layer.attention.register_forward_hook(lambda *seen: returned.append(seen[2][0]))
    layer.register_forward_hook(lambda *seen: returned.append(seen[2]))
    with vitreg.trace(model, "msa_output", "block_output", layers=1) as read:
        restore = model(torch.randn(2, 3, 32, 32)).ids_restore
    assert torch.equal(read["msa_output"][0], in_order(returned[0], restore))
    assert torch.equal(read["block_output"][0], in_order(returned[1], restore))


@pytest.mark.parametrize("target", ["attn_logits", "msa_output", "block_output", "features"])
def test_a_penalty_starts_at_zero_whatever_the_orders(target: str) -> None:
    model = make()
    images = torch.randn(2, 3, 32, 32)
    with unchanged(model), vitreg.attach(model, target=target) as reg:
        model(images)
        assert reg.penalty() < 1e-10, "two orders of the same picture"
        moved = copy.deepcopy(model.layers[0].attention.k_proj.weight.data)
        model.layers[0].attention.k_proj.weight.data += 0.3
        model(images)
        assert reg.penalty() > 1e-8
        model.layers[0].attention.k_proj.weight.data.copy_(moved)


def test_dropped_patches_are_refused() -> None:
    for cls in ("ViTMAEModel", "ViTMAEForPreTraining"):
        with refuses(vitreg.UnsupportedModelError, "every patch", "mask_ratio=0.75", "mask_ratio = 0"):
            vitreg.attach(make(cls, mask_ratio=0.75))


def test_the_decoder_is_pre_trained() -> None:
    model = make("ViTMAEForPreTraining")
    assert find_tower(model).home is model
    assert find_tower(model).name == "vit"


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_gradient_checkpointing_is_refused() -> None:
    model = make()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with (
        vitreg.attach(model),
        refuses(vitreg.UnsupportedModelError, "without gradient checkpointing", "disable"),
    ):
        model(torch.randn(2, 3, 32, 32))
