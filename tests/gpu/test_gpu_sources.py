"""Sources on a GPU: remembered in its memory and in files, in lower precision, and read in two streams."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_step import SIZE, gradient_of, make_batch, make_pair, taken_step

import vitreg

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("where", ["memory", "files"])
def test_a_remembered_source(device: torch.device, where: str, tmp_path: Path) -> None:
    model, source = (m.to(device) for m in make_pair())
    images, labels = make_batch(device)
    cached = vitreg.CachedSource(source, len(images), path=tmp_path if where == "files" else None)
    for _ in range(2):
        model.zero_grad()
        with vitreg.attach(model, cached, "attn_logits") as attachment:
            logits = model(images)
            penalty = attachment.penalty(views=range(len(images)))
            (F.cross_entropy(logits, labels) + penalty).backward()
        expected = taken_step("attn_logits").gradient
        torch.testing.assert_close(gradient_of(model), expected, rtol=1e-3, atol=1e-4)


def test_what_is_remembered_lies_on_the_gpu(gpu: torch.device) -> None:
    model, source = (m.to(gpu) for m in make_pair())
    images, _ = make_batch(gpu)
    cached = vitreg.CachedSource(source, 4096)
    with vitreg.attach(model, cached, "attn_logits") as attachment:
        model(images)
        before = torch.cuda.memory_allocated(gpu)
        attachment.penalty(views=range(len(images)))
        remembered = 4096 * 2 * 3 * (SIZE // 16) ** 2 * 4  # views, blocks, heads, patches, bytes
        assert torch.cuda.memory_allocated(gpu) - before >= remembered
        torch.cuda.synchronize(gpu)
        torch.cuda.set_sync_debug_mode("error")  # nothing of the second pass waits for the GPU
        try:
            model(images)
            attachment.penalty(views=range(len(images)))
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_source_in_bfloat16(device: torch.device) -> None:
    model, source = (m.to(device) for m in make_pair())
    images, _ = make_batch(device)
    lower = vitreg.FrozenSource(source, autocast=torch.bfloat16)
    with vitreg.attach(model, lower, "attn_logits") as attachment:
        model(images)
        value = attachment.penalty().item()
    assert value == pytest.approx(taken_step("attn_logits").penalty, rel=0.05)


def test_a_penalty_on_the_device_of_a_moved_model(device: torch.device) -> None:
    model, source = make_pair()
    with vitreg.attach(model, source, ["attn_logits", "l2sp"]) as attachment:
        model.to(device)
        images, labels = make_batch(device)
        (F.cross_entropy(model(images), labels) + attachment.penalty()).backward()
    expected = taken_step(["attn_logits", "l2sp"])
    torch.testing.assert_close(gradient_of(model), expected.gradient, rtol=1e-3, atol=1e-4)


def test_two_streams_at_once(gpu: torch.device) -> None:
    """Two models are trained in two streams, whose kernels overlap, and each as if it were alone."""
    pairs = [tuple(m.to(gpu) for m in make_pair()) for _ in range(2)]
    streams = [torch.cuda.Stream(gpu) for _ in pairs]
    images, labels = make_batch(gpu)
    torch.cuda.synchronize(gpu)
    attachments = [vitreg.attach(model, source, ["attn_logits", "l2sp"]) for model, source in pairs]
    losses: list[torch.Tensor] = []
    models: list[nn.Module] = [model for model, _ in pairs]
    for stream, model, attachment in zip(streams, models, attachments, strict=True):
        with torch.cuda.stream(stream):
            losses.append(F.cross_entropy(model(images), labels) + attachment.penalty())
    for stream, loss in zip(streams, losses, strict=True):
        with torch.cuda.stream(stream):
            loss.backward()
    torch.cuda.synchronize(gpu)
    expected = taken_step(["attn_logits", "l2sp"]).gradient
    for model, attachment in zip(models, attachments, strict=True):
        attachment.remove()
        torch.testing.assert_close(gradient_of(model), expected, rtol=1e-3, atol=1e-4)
