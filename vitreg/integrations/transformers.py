"""Hugging Face's Trainer: the penalty joins its loss, the terms its log."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback

from vitreg.attachment.attach import Attachment
from vitreg.errors import ArgumentError, StateError
from vitreg.sources.cached import refuse_cached


def cross_entropy(outputs: Any, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of `outputs["logits"]`."""
    return F.cross_entropy(outputs["logits"], labels)


class Guide(TrainerCallback):
    """Add an attachment's penalty to a Trainer's loss: `Guide(attachment).add_to(trainer)`.

    The loss stays whatever the Trainer computes under its arguments: the model's own, with label smoothing,
    a `compute_loss_func`, or a subclass's `compute_loss`. An optimiser step has the mean of its batches'
    penalties. Evaluation takes no penalty. The training log has each term as `penalty/name`. The hooks are
    removed when training ends. A `lam` that is a function receives the number of optimiser steps.

    For a model that computes no loss itself, `compute_loss_func=guide.loss, callbacks=[guide]` does the same
    with `criterion`, the batch's mean loss, weighted as gradient accumulation needs it; such a model needs
    `TrainingArguments(label_names=["labels"])` to be evaluated.
    """

    def __init__(self, attachment: Attachment, criterion: Callable[..., Tensor] | None = None) -> None:
        refuse_cached(attachment.source)
        self.attachment, self.criterion = attachment, criterion
        self._step, self._accumulates = 0, False
        self._model: nn.Module | None = None
        self._smoothing = 0.0

    def add_to(self, trainer: Trainer) -> None:
        """Add the penalty to what `trainer` computes as its loss, and the guide to its callbacks.

        Raises:
            ArgumentError: it is no Trainer, or one whose loss is the guide's already.
        """
        if not isinstance(trainer, Trainer):
            raise ArgumentError(f"Expected a transformers.Trainer, found {type(trainer).__name__}.")
        if self in trainer.callback_handler.callbacks:
            raise ArgumentError("The guide is one of the Trainer's callbacks already. Leave it out there.")
        compute: Any = trainer.compute_loss

        def compute_guided(model: Any, inputs: Any, return_outputs: bool = False, **options: Any) -> Any:
            result = compute(model, inputs, return_outputs=return_outputs, **options)
            if not torch.is_grad_enabled():
                return result
            penalty = self.attachment.penalty(self._step)
            if _is_scaled(trainer, options.get("num_items_in_batch")):  # then nobody divides it later
                penalty = penalty / trainer.current_gradient_accumulation_steps
            return (result[0] + penalty, *result[1:]) if return_outputs else result + penalty

        setattr(trainer, "compute_loss", compute_guided)  # noqa: B010  its type forbids an assignment
        trainer.callback_handler.callbacks.insert(0, self)  # so that reporters see what it adds to the log
        self._note(trainer.args, trainer.model)

    def loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """Return loss and penalty, weighted by the batch's share of what an optimiser step adds up.

        Raises:
            StateError: the guide is no callback, or the share is not known.
            ArgumentError: it would take the place of a loss that it does not know.
        """
        value = (self.criterion or self._usual_loss())(outputs, labels)
        if torch.is_grad_enabled():
            value = value + self.attachment.penalty(self._step)
        if num_items_in_batch is not None:
            return value * (labels.ne(-100).sum() / num_items_in_batch)
        if self._accumulates:
            raise StateError("Gradient accumulation needs labels that the Trainer can count, found none.")
        return value

    def _usual_loss(self) -> Callable[[Any, Tensor], Tensor]:
        """Return the loss that the Trainer would compute for the model without the guide."""
        model: Any = self._model
        if model is None:
            raise StateError(
                "The guide is a callback, too: give the Trainer callbacks=[guide] beside "
                "compute_loss_func=guide.loss, or use guide.add_to(trainer) instead of both."
            )
        model = model.get_base_model() if hasattr(model, "get_base_model") else model  # of peft
        is_own = isinstance(model, PreTrainedModel) or "labels" in inspect.signature(model.forward).parameters
        name = str(getattr(model, "loss_type", None))
        is_known = name.endswith(("ForImageClassification", "ForSequenceClassification"))
        if self._smoothing or (is_own and (self._accumulates or not is_known)):
            what = "with label smoothing" if self._smoothing else f"of {type(model).__name__}"
            raise ArgumentError(
                f"Expected a loss that compute_loss_func=guide.loss can stand for, found the one {what} that "
                "the Trainer computes itself. Use guide.add_to(trainer) in place of compute_loss_func and "
                "callbacks, or give the guide a criterion."
            )
        if not is_own:
            return cross_entropy
        return lambda outputs, labels: model.loss_function(labels, outputs["logits"], model.config)

    def _note(self, args: Any, model: Any) -> None:
        self._model, self._smoothing = model, args.label_smoothing_factor
        self._accumulates = args.gradient_accumulation_steps > 1

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Look at the model and the arguments."""
        self._note(args, model)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look at the step."""
        self._step, self._accumulates = state.global_step, args.gradient_accumulation_steps > 1

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Add the last terms to a line of the training log."""
        if "loss" in logs:
            terms = {f"penalty/{name}": float(value) for name, value in self.attachment.terms.items()}
            logs.update(terms)
            state.log_history[-1].update(terms)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remove the hooks."""
        self.attachment.remove()


def _is_scaled(trainer: Trainer, num_items_in_batch: Any) -> bool:
    """Return whether the Trainer takes its loss for one that is scaled for gradient accumulation already."""
    said = getattr(trainer, "loss_is_scaled_for_ga", None)  # of newer versions
    if said is not None:
        return bool(said)
    accepts = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
    return bool(accepts or trainer.compute_loss_func is not None)
