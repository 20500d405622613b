"""A model, a batch and the gradients of a plain training step, to compare others with."""

from __future__ import annotations

import copy

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitreg

TARGETS = ["attn_logits", "msa_output", "l2sp"]


def make_pair(**options: object) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    source = timm.create_model("vit_tiny_patch16_224", img_size=48, depth=2, num_classes=5, **options)
    model = copy.deepcopy(source)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model, source


def batch(b: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(b, 3, 48, 48, generator=generator), torch.arange(b) % 5


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def plain_gradients(target: object = TARGETS, b: int = 4) -> dict[str, Tensor]:
    """Return the eager gradients, with a source that is run by hand for the attention logits alone."""
    model, source = make_pair()
    x, y = batch(b)
    with vitreg.attach(model, source, target) as reg:
        (F.cross_entropy(model(x), y) + reg.penalty()).backward()
    return gradients(model)


def assert_same(ours: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert ours.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)
