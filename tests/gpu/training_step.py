"""A small model, its source and one training step of them, on any device and in any precision."""

from __future__ import annotations

import copy
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitreg

NUM_CLASSES = 5
SIZE = 48


class Step(NamedTuple):
    """What one training step computed, on the CPU in float32.

    Attributes:
        penalty: the weighted penalty.
        gradient: of every parameter, one after the other.
    """

    penalty: float
    gradient: Tensor


def make_pair() -> tuple[nn.Module, nn.Module]:
    """Return a model and the source that it has moved away from, always the same."""
    torch.manual_seed(0)
    source = timm.create_model("vit_tiny_patch16_224", img_size=SIZE, depth=2, num_classes=NUM_CLASSES)
    model = copy.deepcopy(source).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model, source


def make_batch(device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return pictures [8, 3, SIZE, SIZE] and labels [8], the same on every device."""
    images = torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return images.to(device), (torch.arange(8) % NUM_CLASSES).to(device)


def gradient_of(model: nn.Module) -> Tensor:
    """Return the gradient of every parameter that has one, one after the other, in float32 on the CPU."""
    return torch.cat([p.grad.float().cpu().flatten() for p in model.parameters() if p.grad is not None])


def taken_step(
    target: object, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Step:
    """Return what a step of `target` computes, under autocast unless in float32; float16 is scaled."""
    model, source = make_pair()
    model.to(device)
    images, labels = make_batch(device)
    kind = images.device.type
    scaler = torch.amp.GradScaler(kind, init_scale=2.0**10, enabled=dtype is torch.float16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with vitreg.attach(model, source, target) as attachment:
        with torch.autocast(kind, dtype=dtype, enabled=dtype is not torch.float32):
            loss = F.cross_entropy(model(images), labels)
            penalty = attachment.penalty()
        scaler.scale(loss + penalty).backward()
        scaler.unscale_(optimizer)
    return Step(penalty.item(), gradient_of(model))


def cosine(ours: Tensor, expected: Tensor) -> float:
    """Return the cosine of the angle between two gradients."""
    return F.cosine_similarity(ours, expected, dim=0).item()
