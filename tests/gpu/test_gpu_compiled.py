"""On a GPU a compiled model is read as the model itself is, with CUDA graphs and in either memory format."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from training_step import cosine, gradient_of, make_batch, make_pair, taken_step

import vitreg

pytestmark = pytest.mark.gpu

TARGETS = ["attn_logits", "msa_output", "l2sp"]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_model(device: torch.device, mode: str, memory_format: torch.memory_format) -> None:
    model, source = make_pair()
    model.to(device, memory_format=memory_format)
    images, labels = make_batch(device)
    images = images.to(memory_format=memory_format)
    with vitreg.attach(model, source, TARGETS) as attachment:
        assert next(attachment.source.tower.module.parameters()).device.type == device.type
        torch.compiler.reset()
        # A CPU has no CUDA graphs, and takes long to compile: there the graph alone is rehearsed.
        options = {"mode": mode} if device.type == "cuda" else {"backend": "aot_eager"}
        compiled = torch.compile(model, **options)
        for _ in range(4):  # a CUDA graph is recorded in the second or third and replayed from then on
            model.zero_grad()
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = F.cross_entropy(compiled(images), labels) + attachment.penalty()
            loss.backward()
        value = float(attachment.terms["attn_logits"])
    expected = taken_step(TARGETS)
    assert cosine(gradient_of(model), expected.gradient) > 0.99
    alone = taken_step("attn_logits")
    assert value == pytest.approx(alone.penalty, rel=0.05)


def test_channels_last_without_compiling(device: torch.device) -> None:
    model, source = make_pair()
    model.to(device, memory_format=torch.channels_last)
    images, labels = make_batch(device)
    with vitreg.attach(model, source, TARGETS) as attachment:
        logits = model(images.to(memory_format=torch.channels_last))
        (F.cross_entropy(logits, labels) + attachment.penalty()).backward()
    torch.testing.assert_close(gradient_of(model), taken_step(TARGETS).gradient, rtol=1e-3, atol=1e-4)
