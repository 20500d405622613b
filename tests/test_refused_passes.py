"""Forward passes from which no penalty can be taken are refused, with what to do."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import vitreg
from laws import refuses, unchanged
from vitreg import (
    MismatchError,
    StateError,
)


@pytest.fixture
def model(vit: object) -> nn.Module:
    return vit().train()


def test_penalty_before_a_forward_pass(model: nn.Module) -> None:
    with unchanged(model), vitreg.attach(model) as attachment:
        with refuses(StateError, "needs a forward pass", "training mode", "none was seen"):
            attachment.penalty()
        assert attachment.step == 0
        assert attachment.terms == {}


def test_penalty_twice_after_one_pass(model: nn.Module, images: Tensor) -> None:
    with unchanged(model), vitreg.attach(model) as attachment:
        model(images)
        attachment.penalty()
        with refuses(StateError, "needs a forward pass", "taken already", "run the model again"):
            attachment.penalty()
        model(images)
        attachment.penalty()
        assert attachment.step == 2


@pytest.mark.parametrize("target", ["attn_logits", "l2sp"])
def test_penalty_after_remove(model: nn.Module, images: Tensor, target: str) -> None:
    with unchanged(model):
        attachment = vitreg.attach(model, target=target)
        model(images)
        attachment.remove()
        attachment.remove()
        with refuses(StateError, "was removed", "attach again"):
            attachment.penalty()


def test_forward_in_eval(model: nn.Module, images: Tensor) -> None:
    with vitreg.attach(model) as attachment:
        model(images)
        attachment.penalty()
        model.eval()
        model(images)
        with refuses(StateError, "training mode", "eval mode", "model.train()", "attach again"):
            attachment.penalty()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_forward_without_gradients(model: nn.Module, images: Tensor, context: type) -> None:
    with unchanged(model), vitreg.attach(model) as attachment:
        with context():
            model(images)
        with refuses(StateError, "without gradients", "no_grad"):
            attachment.penalty()


def test_an_evaluation_keeps_the_training_pass(model: nn.Module, images: Tensor) -> None:
    with vitreg.attach(model, target="bss") as attachment:
        model(images)
        model.eval()
        with torch.no_grad():
            model(images[:1])
        model.train()
        assert attachment.penalty().item() > 0
        model.eval()
        model(images)
        model.train()
        with refuses(StateError, "eval mode"):
            attachment.penalty()


def test_a_pass_that_was_cut_short(model: nn.Module, images: Tensor) -> None:
    with unchanged(model), vitreg.attach(model) as attachment:
        model(images)
        with pytest.raises(AssertionError):
            model(torch.randn(4, 3, 24, 24))
        model.forward_features(images)
        attachment.penalty()
    with unchanged(model), vitreg.attach(model, target="bss") as attachment:
        model.forward_features(images)
        with refuses(StateError, "did not deliver features", "own head"):
            attachment.penalty()


def test_nothing_that_is_read_is_trained(model: nn.Module, images: Tensor) -> None:
    with vitreg.attach(model) as attachment, vitreg.freeze(model, "head"):
        model(images)
        value = attachment.penalty()  # it joins when the blocks do: test_frozen_start.py
        assert (value.item(), value.requires_grad) == (0, False)


def test_dropped_tokens(vit: object, images: Tensor) -> None:
    model = vit(patch_drop_rate=0.5).train()
    with unchanged(model), vitreg.attach(model) as attachment:
        model(images)
        with refuses(MismatchError, "Token dropping", "patch_drop_rate", "must be off"):
            attachment.penalty()


def test_reentrant_checkpointing(vit: object, images: Tensor) -> None:
    class Checkpointed(nn.Module):
        """A block whose parts run under reentrant checkpointing."""

        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block
            self.attn = block.attn
            self.mlp = block.mlp

        def forward(self, x: Tensor, **_: object) -> Tensor:
            return checkpoint(self.block, x, use_reentrant=True)

    model = vit().train()
    model.blocks = nn.Sequential(*(Checkpointed(block) for block in model.blocks))
    with unchanged(model), vitreg.attach(model) as attachment:
        with refuses(StateError, "without gradients inside a training pass", "use_reentrant=False"):
            model(images)
        with refuses(StateError, "needs a forward pass"):
            attachment.penalty()


def test_timms_reentrant_checkpointing(model: nn.Module, images: Tensor) -> None:
    from timm.layers import set_reentrant_ckpt, use_reentrant_ckpt

    before = use_reentrant_ckpt()
    model.set_grad_checkpointing()
    try:
        set_reentrant_ckpt(True)
        with (
            unchanged(model),
            vitreg.attach(model),
            refuses(StateError, "reentrant", "timm.layers.set_reentrant_ckpt(False)"),
        ):
            model(images)
        set_reentrant_ckpt(False)
        with unchanged(model), vitreg.attach(model) as attachment:
            model(images)
            attachment.penalty()
    finally:
        set_reentrant_ckpt(before)
