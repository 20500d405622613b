"""Which kernel computes the attention changes nothing of what is read: none is ever replaced."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from training_step import make_batch, make_pair

import vitreg

pytestmark = pytest.mark.gpu

NAMES = ("attn_logits", "attn_probs", "msa_output", "block_output")


def readings(device: torch.device, backend: SDPBackend | None) -> dict[str, list[torch.Tensor]]:
    """Return what is read of a bfloat16 model, in float32, with the kernel of `backend` or torch's choice."""
    model, _ = make_pair()
    model.to(device, torch.bfloat16).eval()
    images = make_batch(device)[0].bfloat16()
    with torch.no_grad(), vitreg.trace(model, *NAMES) as trace:
        if backend is None:
            model(images)
        else:
            with sdpa_kernel(backend):
                model(images)
    return {name: [reading.float() for reading in trace[name]] for name in NAMES}


@pytest.mark.parametrize("backend", ["FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"])
def test_every_kernel_gives_the_same_readings(device: torch.device, backend: str) -> None:
    if device.type == "cpu" and backend == "EFFICIENT_ATTENTION":
        pytest.skip("a CPU has no such kernel")
    expected, ours = readings(device, None), readings(device, getattr(SDPBackend, backend))
    for name in NAMES:
        for block, (a, b) in enumerate(zip(ours[name], expected[name], strict=True)):
            far = ((a - b).norm() / b.norm()).item()
            assert far < 0.02, f"{name} of block {block} is off by {far:.1e}"
