"""Hierarchical transformers of timm: their blocks are found, read and guided; their logits are refused."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

import vitreg
from hierarchical_models import (
    BOTH,
    MODELS,
    NAMES,
    images_of,
    shaken,
)
from vitreg.families import find_tower


@pytest.mark.parametrize("name", NAMES)
def test_describe_says_the_truth(name: str) -> None:
    model, tiny = MODELS[name].make(), MODELS[name]
    found = vitreg.describe(model)
    blocks = find_tower(model).blocks
    assert found.model == type(model).__name__
    assert Counter(type(b.attention).__name__ for b in blocks) == tiny.attention
    assert found.num_blocks == sum(tiny.attention.values())
    assert found.width == tiny.width
    assert found.has_class_token == (name in ("coat", "mvit_class_token"))
    assert found.num_prefix_tokens == found.has_class_token
    assert found.grid is None
    read = {"msa_output", "block_output", "features"}
    read |= set() if name == "mobilenetv5_encoder" else {"class_logits"}  # an encoder has no head
    read |= {"cls_output"} if found.has_class_token else set()
    assert {extractor for extractor, why in found.extractors.items() if not why} == read
    assert not any(found.queries.values())


@pytest.mark.parametrize("name", NAMES)
def test_readings_are_what_the_modules_return(name: str) -> None:
    model = shaken(name)
    blocks = find_tower(model).blocks
    returned: dict[nn.Module, list[object]] = {m: [] for b in blocks for m in (b.module, b.attention)}
    handles = [m.register_forward_hook(lambda m, _, output: returned[m].append(output)) for m in returned]
    ran: list[nn.Module] = []
    handles += [b.attention.register_forward_hook(lambda m, *_: ran.append(m)) for b in blocks]
    with torch.no_grad(), vitreg.trace(model, *BOTH) as read:
        model(images_of(name))
    assert ran == [b.attention for b in blocks]
    for handle in handles:
        handle.remove()
    for block, msa, whole in zip(blocks, read["msa_output"], read["block_output"], strict=True):
        (attention,), (output,) = returned[block.attention], returned[block.module]
        attention = attention[0] if isinstance(attention, tuple) else attention
        if name == "maxxvit_nchw":  # windows of maps: their channels go last
            attention = attention.movedim(1, -1)
        torch.testing.assert_close(msa.flatten(), attention.flatten(), atol=0, rtol=0)
        parts = output if isinstance(output, tuple) else (output,)
        assert any(torch.is_tensor(p) and torch.equal(p.flatten(), whole.flatten()) for p in parts)
        if name.startswith(("coat", "mvit")):
            assert whole.shape[:2] == msa.shape[:2]


@pytest.mark.parametrize("name", NAMES)
def test_readings_have_the_images_first(name: str) -> None:
    model, images = shaken(name), images_of(name)
    with torch.no_grad(), vitreg.trace(model, *BOTH) as read:
        model(images)
        together = {extractor: list(read[extractor]) for extractor in BOTH}
        model(images[1:])
        for extractor in BOTH:
            for both, alone in zip(together[extractor], read[extractor], strict=True):
                assert both.shape == (2, *alone.shape[1:])
                torch.testing.assert_close(both[1:], alone, atol=1e-3, rtol=1e-3)
