import pytest
import torch
from torch import Tensor, nn

import vitreg


def own_softmax(attention: nn.Module, model: nn.Module, images: Tensor) -> Tensor:
    """Return the whole attention [b, h, n, n] that enters the dropout of timm's unfused attention."""
    seen: list[Tensor] = []
    fused, attention.fused_attn = attention.fused_attn, False
    handle = attention.attn_drop.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    model(images)
    handle.remove()
    attention.fused_attn = fused
    return seen[0]


@pytest.mark.parametrize("reg_tokens", [0, 2])
def test_the_models_own_softmax(vit: object, images: Tensor, reg_tokens: int) -> None:
    model = vit(reg_tokens=reg_tokens).eval()
    with vitreg.trace(model, "attn_probs") as trace:
        model(images)
    for block, value in zip(model.blocks, trace["attn_probs"], strict=True):
        own = own_softmax(block.attn, model, images)[:, :, 0, 1 + reg_tokens :]
        torch.testing.assert_close(value.detach(), own, rtol=1e-4, atol=1e-6)


def test_sums_to_one_less_what_the_prefix_receives(tower_model: nn.Module, images: Tensor) -> None:
    with vitreg.trace(tower_model, "attn_probs", "attn_logits") as trace:
        tower_model(images)
    for probs, logits in zip(trace["attn_probs"], trace["attn_logits"], strict=True):
        assert bool((probs >= 0).all())
        assert bool((probs.sum(-1) < 1).all())
        shares = probs / probs.sum(-1, keepdim=True)
        torch.testing.assert_close(shares, logits.softmax(-1), rtol=1e-4, atol=1e-6)


def test_before_dropout(vit: object, images: Tensor) -> None:
    model = vit(attn_drop_rate=0.9).train()
    with vitreg.trace(model, "attn_probs", layers=0) as trace:
        model(images)
        first = trace["attn_probs"][0]
        model(images)
        assert torch.equal(trace["attn_probs"][0], first)
