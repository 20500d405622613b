"""Activation checkpointing: the plain gradients, or a refusal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

import vitreg
from plain_training import TARGETS, assert_same, batch, gradients, make_pair, plain_gradients


def _checkpointing(reentrant: bool) -> Callable[[], None]:
    from timm.layers import set_reentrant_ckpt

    set_reentrant_ckpt(reentrant)
    return lambda: set_reentrant_ckpt(False)


def test_non_reentrant_checkpointing() -> None:
    undo = _checkpointing(reentrant=False)
    try:
        model, source = make_pair()
        model.set_grad_checkpointing()
        x, y = batch()
        with vitreg.attach(model, source, TARGETS) as reg:
            loss = F.cross_entropy(model(x), y) + reg.penalty()
            loss.backward()
            with pytest.raises(vitreg.StateError, match="taken already"):
                reg.penalty()  # the blocks ran again in the backward pass, which is no new forward pass
        assert_same(gradients(model), plain_gradients(), rtol=1e-4, atol=1e-6)
    finally:
        undo()


def test_checkpointing_of_the_whole_model() -> None:
    model, source = make_pair()
    x, y = batch()
    with vitreg.attach(model, source, TARGETS) as reg:
        logits = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
        (F.cross_entropy(logits, y) + reg.penalty()).backward()
        with pytest.raises(vitreg.StateError, match="taken already"):
            reg.penalty()
    assert_same(gradients(model), plain_gradients(), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_blocks_that_are_checkpointed() -> None:
    model, source = make_pair()
    model.set_grad_checkpointing()
    x, y = batch()
    with vitreg.attach(model, source, "attn_logits") as reg:
        torch.compiler.reset()
        for block in model.blocks:
            block.compile(backend="aot_eager")
        for _ in range(2):
            model.zero_grad()
            (F.cross_entropy(model(x), y) + reg.penalty()).backward()
            with pytest.raises(vitreg.StateError, match="taken already"):
                reg.penalty()
    assert_same(gradients(model), plain_gradients("attn_logits"), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_blocks_that_are_checkpointed_need_the_penalty_first() -> None:
    model, source = make_pair()
    model.set_grad_checkpointing()
    with vitreg.attach(model, source, "attn_logits"):
        torch.compiler.reset()
        for block in model.blocks:
            block.compile(backend="aot_eager")
        loss = model(batch()[0]).sum()
        with pytest.raises(vitreg.StateError, match=r"compiled and checkpointed.*before loss.backward\(\)"):
            loss.backward()


def test_checkpointing_in_eval_mode_with_gradients_is_left_alone() -> None:
    model, source = make_pair()
    model.set_grad_checkpointing()
    x, y = batch()
    with vitreg.attach(model, source, TARGETS) as reg:
        for _ in range(2):
            model.eval()
            model(x.clone().requires_grad_()).sum().backward()  # as for a saliency map
            model.train().zero_grad()
            (F.cross_entropy(model(x), y) + reg.penalty()).backward()
    assert_same(gradients(model), plain_gradients(), rtol=1e-4, atol=1e-6)


def test_reentrant_checkpointing_is_refused() -> None:
    undo = _checkpointing(reentrant=True)
    try:
        model, source = make_pair()
        model.set_grad_checkpointing()
        x, _ = batch()
        with vitreg.attach(model, source), pytest.raises(vitreg.StateError, match="use_reentrant=False"):
            model(x.requires_grad_())
    finally:
        undo()
