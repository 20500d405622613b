"""TransMix on a GPU: the same boxes, labels and gradients as on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_step import NUM_CLASSES, gradient_of, make_batch, make_pair

import vitreg

pytestmark = pytest.mark.gpu


def mixed_step(device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the soft labels and the gradient of a step with mixed pictures, on the CPU."""
    model, _ = make_pair()
    model.to(device)
    images, labels = make_batch(device)
    np.random.seed(3)
    mix = vitreg.TransMix(model, num_classes=NUM_CLASSES, mixup_alpha=0.0)
    mixed, _ = mix(images, labels)
    logits = model(mixed)
    soft = mix.labels()
    F.cross_entropy(logits, soft).backward()
    return soft.cpu(), gradient_of(model)


def test_labels_and_gradients_are_the_cpus(device: torch.device) -> None:
    expected, ours = mixed_step("cpu"), mixed_step(device)
    assert ((expected[0] > 0.05).sum(1) > 1).any()  # pictures were mixed
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[1], expected[1], rtol=1e-3, atol=1e-4)
