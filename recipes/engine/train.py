"""The one training loop: AdamW, a cosine over the steps, cross-entropy and whatever penalty is attached."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import vitreg
from engine.errors import RecipeError
from engine.task import Batches, Draws, Task
from vitreg import ReadingPenalty

WARMUP_START = 1e-6
"""The learning rate at the first step of a warm-up."""

LOGGED_STEPS = 20
"""How many times in a run the loss and the penalty's terms are noted."""


@dataclass(frozen=True)
class Hyperparameters:
    """How a run is optimised; the same for every method."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup_epochs: float = 0.0
    smoothing: float = 0.0
    drop_path: float = 0.0


def train(
    model: nn.Module,
    task: Task,
    indices: Sequence[int],
    hyper: Hyperparameters,
    *,
    target: ReadingPenalty | None,
    seed: int,
    accelerator: Accelerator,
    workers: int = 0,
    on_step: Callable[[], None] = lambda: None,
) -> list[dict[str, float]]:
    """Train `model` in place on `indices` of the task and return the log: step, loss, lr, unweighted terms.

    `target` is what `vitreg.attach` gets, with the model as it comes in as the source; None attaches nothing.
    Nothing stays attached afterwards.

    Raises:
        RecipeError: The loss is no longer finite.
    """
    model.to(accelerator.device).train()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=hyper.lr, weight_decay=hyper.weight_decay)
    # NOTE[DIFF]: the paper does not say whether it warms up; "DINO's fine-tuning configuration" has 5 epochs.
    # In a subset smaller than a batch an epoch is not a whole step; half of the run is the most that is
    # warmed up.
    warmup = math.ceil(hyper.warmup_epochs * len(indices) / hyper.batch_size)
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=hyper.steps,
        warmup_t=min(warmup, hyper.steps // 2),
        warmup_lr_init=WARMUP_START,
        t_in_epochs=False,
    )
    loader = DataLoader(
        Draws(task),
        batch_sampler=Batches(indices, batch_size=hyper.batch_size, steps=hyper.steps, seed=seed),
        num_workers=workers,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator().manual_seed(seed),  # so that no number is taken from the model's own
    )
    attachment = None if target is None else vitreg.attach(model, None, target=target)
    log: list[dict[str, float]] = []
    try:
        for step, (pictures, labels) in enumerate(loader):
            schedule.step_update(step)
            pictures = pictures.to(accelerator.device, non_blocking=True)
            labels = labels.to(accelerator.device, non_blocking=True)
            with accelerator.autocast():
                logits = model(task.normalised(pictures))
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=hyper.smoothing)
            objective = loss if attachment is None else loss + attachment.penalty()
            optimizer.zero_grad()
            accelerator.backward(objective)
            optimizer.step()
            if step % max(1, hyper.steps // LOGGED_STEPS) == 0 or step == hyper.steps - 1:
                terms = {} if attachment is None else attachment.terms
                noted = {"loss": loss.detach(), **terms}
                log.append(
                    {
                        "step": step,
                        "lr": optimizer.param_groups[0]["lr"],
                        **{k: float(v) for k, v in noted.items()},
                    }
                )
                if not math.isfinite(float(objective.detach())):
                    raise RecipeError(
                        f"the loss is not finite at step {step} ({log[-1]}); try a smaller --lr or --lam"
                    )
            on_step()
    finally:
        if attachment is not None:
            attachment.remove()
    return log
