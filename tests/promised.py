"""A small model, images and a drifted copy, for the promises."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn


def make_model(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", **{"img_size": 48, "depth": 3, "num_classes": 5, **options}
    )


def images(b: int = 4) -> Tensor:
    return torch.randn(b, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def moved(model: nn.Module, by: float = 0.05) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += by * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    return model
