"""Hugging Face's Trainer: the penalty in its loss, the terms in its log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import TrainerCallback

from vitreg.attachment.attach import Attachment
from vitreg.errors import StateError
from vitreg.sources.cached import refuse_cached


def cross_entropy(outputs: Any, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of `outputs["logits"]`."""
    return F.cross_entropy(outputs["logits"], labels)


class Guide(TrainerCallback):
    """Add an attachment's penalty to a Trainer's loss: `compute_loss_func=guide.loss, callbacks=[guide]`.

    Evaluation takes no penalty. The training log has each term as `penalty/name`; a reporter sees them if it
    stands behind the guide in `callbacks`. The hooks are removed when training ends. A `lam` that is a
    function receives the number of optimiser steps. `criterion` is the batch's mean loss. A model whose
    forward takes no labels needs `TrainingArguments(label_names=["labels"])` to be evaluated.
    """

    def __init__(self, attachment: Attachment, criterion: Callable[..., Tensor] = cross_entropy) -> None:
        refuse_cached(attachment.source)
        self.attachment, self.criterion = attachment, criterion
        self._step, self._accumulates = 0, False

    def loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """Return loss and penalty, weighted by the batch's share of what an optimiser step adds up."""
        value = self.criterion(outputs, labels)
        if torch.is_grad_enabled():
            value = value + self.attachment.penalty(self._step)
        if num_items_in_batch is not None:
            return value * (labels.ne(-100).sum() / num_items_in_batch)
        if self._accumulates:
            raise StateError("Gradient accumulation needs labels that the Trainer can count, found none.")
        return value

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
