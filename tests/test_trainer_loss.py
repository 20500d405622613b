"""The Trainer's guide adds to the loss that the Trainer computes under its arguments, whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification
from transformers import ViTForMaskedImageModeling as Masked

import vitreg
from laws import refuses
from vitreg import ArgumentError, StateError
from vitreg.integrations.transformers import Guide

pytestmark = pytest.mark.filterwarnings("ignore")


class OwnTrainer(Trainer):
    """A subclass with a loss of its own."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **options: Any) -> Any:
        outputs = model(pixel_values=inputs["pixel_values"])
        loss = F.multi_margin_loss(outputs["logits"], inputs["labels"])
        return (loss, outputs) if return_outputs else loss


def squared(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return (outputs["logits"] - F.one_hot(labels, 4)).square().mean()


def make(problem_type: str | None = None) -> nn.Module:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        num_labels=4,
        problem_type=problem_type,
    )
    return ViTForImageClassification(config)


def pictures(multi: bool) -> list[dict[str, Tensor]]:
    draws = [torch.Generator().manual_seed(i) for i in range(6)]
    return [
        {
            "pixel_values": torch.randn(3, 32, 32, generator=draw),
            "labels": torch.tensor([1.0, 0.0, i % 2, 0.0] if multi else i % 4),
        }
        for i, draw in enumerate(draws)
    ]


def train(
    model: nn.Module,
    folder: Path,
    use: Callable[[Trainer], None] = lambda trainer: None,
    cls: type[Trainer] = Trainer,
    multi: bool = False,
    loss: Any = None,
    callbacks: Any = None,
    **options: Any,
) -> tuple[float, list[Tensor]]:
    arguments = TrainingArguments(
        folder,
        optim="sgd",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        max_steps=1,
        per_device_train_batch_size=3,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        train_sampling_strategy="sequential",
        **options,
    )
    trainer = cls(
        model, arguments, train_dataset=pictures(multi), compute_loss_func=loss, callbacks=callbacks
    )
    use(trainer)
    trainer.train()
    return trainer.state.log_history[0]["loss"], [p.detach().clone() for p in model.parameters()]


LOSSES: dict[str, dict[str, Any]] = {
    "the model's own": {},
    "the model's own for several labels": {"multi": True},
    "label smoothing": {"label_smoothing_factor": 0.3},
    "compute_loss_func": {"loss": squared},
    "a subclass": {"cls": OwnTrainer},
    "accumulated": {"gradient_accumulation_steps": 2},
    "accumulated, several labels": {"gradient_accumulation_steps": 2, "multi": True},
    "accumulated, a subclass": {"gradient_accumulation_steps": 2, "cls": OwnTrainer},
}


@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES)
def test_it_is_added(options: dict[str, Any], tmp_path: Path) -> None:
    problem = "multi_label_classification" if options.get("multi") else None
    start = [p.detach().clone() for p in make(problem).parameters()]
    plain_loss, plain = train(make(problem), tmp_path, **options)

    def guided(lam: float) -> tuple[float, list[Tensor]]:
        model = make(problem)
        guide = Guide(vitreg.attach(model, target=vitreg.L2SP(lam=1.0, head=1.0), lam=lam))
        return train(model, tmp_path, guide.add_to, **options)

    zero_loss, zero = guided(0.0)
    assert zero_loss == plain_loss
    assert all(torch.equal(a, b) for a, b in zip(zero, plain, strict=True))
    one_loss, one = guided(2.0)
    head = start[-2]  # at the start, L2-SP is half the head's square, and its gradient the head
    assert one_loss == pytest.approx(plain_loss + head.double().square().sum().item(), rel=1e-3)
    torch.testing.assert_close(one[-2], plain[-2] - 0.1 * 2.0 * head, rtol=1e-4, atol=1e-6)


def test_as_a_loss_function_it_is_the_models_own(tmp_path: Path) -> None:
    for problem in (None, "multi_label_classification"):
        multi = problem is not None
        plain_loss, plain = train(make(problem), tmp_path, multi=multi)
        model = make(problem)
        guide = Guide(vitreg.attach(model, lam=0))
        loss, weights = train(model, tmp_path, multi=multi, loss=guide.loss, callbacks=[guide])
        assert loss == pytest.approx(plain_loss, rel=1e-5)
        torch.testing.assert_close(weights, plain)


def test_as_a_loss_function_it_replaces_none_unseen(tmp_path: Path) -> None:
    for options, words in (
        ({"label_smoothing_factor": 0.1}, "with label smoothing"),
        ({"gradient_accumulation_steps": 2}, "of ViTForImageClassification"),
    ):
        model = make()
        guide = Guide(vitreg.attach(model))
        with refuses(ArgumentError, words, "guide.add_to(trainer)"):
            train(model, tmp_path, loss=guide.loss, callbacks=[guide], **options)
        guide.attachment.remove()
    masked = Masked(make().config)
    guide = Guide(vitreg.attach(masked))
    with refuses(ArgumentError, "of ViTForMaskedImageModeling", "guide.add_to(trainer)"):
        train(masked, tmp_path, loss=guide.loss, callbacks=[guide])
    model = make()
    guide = Guide(vitreg.attach(model))
    with refuses(StateError, "callbacks=[guide]", "guide.add_to(trainer)"):
        train(model, tmp_path, loss=guide.loss)


def test_bad_input(tmp_path: Path) -> None:
    model = make()
    guide = Guide(vitreg.attach(model))
    with refuses(ArgumentError, "Expected a transformers.Trainer", "ViTForImageClassification"):
        guide.add_to(model)
    with refuses(ArgumentError, "callbacks already"):
        train(model, tmp_path, guide.add_to, callbacks=[guide])
