"""Training in eval mode, as DeiT's own fine-tuning does, and evaluation in between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import make_vit
from vitreg import StateError


@pytest.mark.parametrize("target", ["attn_logits", "msa_output", "block_output", "features", "bss"])
def test_training_in_eval_mode(target: str, images: Tensor, perturb: Callable[[nn.Module], None]) -> None:
    """Without dropout both modes compute the same, so the penalty of training mode is the right value."""
    model, source = make_vit(), make_vit()
    perturb(model)
    found = []
    for training in (True, False):
        model.train(training).zero_grad()
        with vitreg.attach(model, source, target) as attachment:
            for _ in range(2):
                (model(images).mean() + attachment.penalty()).backward()
            found.append((attachment.penalty.__self__.terms, [p.grad for p in model.parameters()]))
    torch.testing.assert_close(found[1], found[0])


def test_dropout_is_off(images: Tensor) -> None:
    model = make_vit(drop_path_rate=0.5, pos_drop_rate=0.5).eval()
    with vitreg.attach(model) as attachment:
        model(images)
        assert attachment.penalty() == 0


def test_evaluation_is_not_read_once_there_was_training(images: Tensor) -> None:
    model = make_vit()
    with vitreg.attach(model, make_vit()) as attachment:
        model.eval()
        model(3 * images)  # an evaluation before the training, without no_grad
        model(5 * images)
        model.train()
        model(images)
        expected = attachment.penalty().item()
        model(images)
        model.eval()
        model(3 * images)
        assert attachment.penalty().item() == expected
        model(images)
        with refuses(StateError, "eval mode", "training mode before", "attach again"):
            attachment.penalty()


def test_without_gradients_it_is_not_read(images: Tensor) -> None:
    model = make_vit().eval()
    with vitreg.attach(model) as attachment:
        with torch.no_grad():
            model(images)
        with refuses(StateError, "without gradients"):
            attachment.penalty()
        model(images)
        with torch.no_grad():
            model(3 * images)
        assert attachment.penalty() == 0
