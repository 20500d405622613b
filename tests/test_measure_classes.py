import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vitreg
from laws import refuses, unchanged
from vitreg import ArgumentError


def literal_rise(model: torch.nn.Module, images: Tensor, labels: Tensor, block: int, channel: int) -> float:
    """Return how much the loss rises, to first order, as a channel of a block's output goes to zero."""
    step, losses = 1e-3, []
    for factor in (1 + step, 1 - step):

        def scale(_: object, args: object, out: Tensor, factor: float = factor) -> Tensor:
            changed = out.clone()
            changed[..., channel] *= factor
            return changed

        handle = model.blocks[block].register_forward_hook(scale)
        with torch.no_grad():
            losses.append(F.cross_entropy(model(images), labels).item())
        handle.remove()
    return -(losses[0] - losses[1]) / (2 * step)


def test_channel_weights_follow_what_the_loss_would_rise(vit: object) -> None:
    model = vit(embed_dim=4, depth=2).double().train()
    images, labels = torch.randn(6, 3, 32, 32).double(), torch.arange(6) % 5
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    with unchanged(model):
        weights = vitreg.measure.channel_weights(model, batches, layers="all")
    assert images.requires_grad is False
    model.eval()
    for block, weight in enumerate(weights):
        rises = [float(literal_rise(model, images, labels, block, c)) for c in range(4)]
        mean = sum(rises) / 4
        deviation = math.sqrt(sum((rise - mean) ** 2 for rise in rises) / 4)
        powers = [math.exp((rise - mean) / deviation / 5) for rise in rises]
        expected = torch.tensor([power / sum(powers) for power in powers])
        torch.testing.assert_close(weight.float(), expected, rtol=1e-3, atol=1e-5)
        assert weight.sum().item() == pytest.approx(1)


def test_no_pictures(vit: object) -> None:
    with refuses(ArgumentError, "at least one batch", "found none"):
        vitreg.measure.channel_weights(vit(), [])
