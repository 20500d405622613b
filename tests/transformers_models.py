"""Models of transformers that are moved, and some without what is random."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from transformers_cases import CASES

hf = pytest.importorskip("transformers")


def moved(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def still(name: str, implementation: str) -> nn.Module:
    """Return a model without what is random in training mode: drop path, and DINOv3's positions."""
    options = {"pos_embed_rescale": None} if "dinov3" in name else {"drop_path_rate": 0.0}
    return CASES[name].make(implementation, **options)
