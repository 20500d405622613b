"""On a GPU every penalty and its gradients are those of the CPU, in every precision."""

from __future__ import annotations

import pytest
import torch
from training_step import cosine, taken_step

pytestmark = pytest.mark.gpu

TARGETS = ["attn_logits", "attn_probs", "msa_output", "block_output", "features", "l2sp", "bss"]


@pytest.mark.parametrize("target", TARGETS)
def test_float32_is_the_cpus(device: torch.device, target: str) -> None:
    expected, ours = taken_step(target), taken_step(target, device)
    assert expected.penalty > 0
    assert ours.penalty == pytest.approx(expected.penalty, rel=1e-3)
    torch.testing.assert_close(ours.gradient, expected.gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("target", TARGETS)
def test_a_half_precision_is_the_cpus_but_for_rounding(
    device: torch.device, dtype: torch.dtype, target: str
) -> None:
    expected, ours = taken_step(target), taken_step(target, device, dtype)
    assert ours.penalty == pytest.approx(expected.penalty, rel=0.05)
    assert cosine(ours.gradient, expected.gradient) > 0.99
    assert ours.gradient.norm().item() == pytest.approx(expected.gradient.norm().item(), rel=0.05)


def test_penalties_together(device: torch.device) -> None:
    expected, ours = taken_step(TARGETS), taken_step(TARGETS, device)
    assert ours.penalty == pytest.approx(expected.penalty, rel=1e-3)
    torch.testing.assert_close(ours.gradient, expected.gradient, rtol=1e-3, atol=1e-4)
