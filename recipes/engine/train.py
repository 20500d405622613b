"""The one training loop: AdamW, a cosine over the steps, cross-entropy and whatever penalty is attached."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import vitreg
from engine.errors import RecipeError
from engine.task import Batches, Draws, Task
from vitreg import ReadingPenalty

if TYPE_CHECKING:
    from engine.checkpoint import Checkpoints

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


@dataclass
class Training:
    """What changes while a model is trained, apart from the random states; `step` steps are done."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    log: list[dict[str, float]] = field(default_factory=list)


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
    checkpoints: Checkpoints | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place on `indices` of the task and return the log: step, loss, lr, unweighted terms.

    `target` is what `vitreg.attach` gets, with the model as it comes in as the source; None attaches nothing.
    Nothing stays attached afterwards. With `checkpoints` the training goes on from the last one, to the same
    weights and log as if it had never been interrupted; `on_step` is told of the steps before it, too.

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
    attachment = None if target is None else vitreg.attach(model, None, target=target)
    training = Training(model, optimizer)
    try:
        if checkpoints is not None:
            checkpoints.restore(training, indices)
        if attachment is not None:
            attachment.step = training.step
        for _ in range(training.step):
            on_step()
        for pictures, labels in _loader(
            task, indices, hyper, first=training.step, seed=seed, accelerator=accelerator, workers=workers
        ):
            step = training.step
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
                entry = {"step": step, "lr": optimizer.param_groups[0]["lr"]}
                training.log.append({**entry, **{name: float(value) for name, value in noted.items()}})
                if not math.isfinite(float(objective.detach())):
                    raise RecipeError(
                        f"the loss is not finite at step {step} ({training.log[-1]}); "
                        "try a smaller --lr or --lam"
                    )
            training.step += 1
            if checkpoints is not None:
                checkpoints.save(training, is_last=training.step == hyper.steps)
            on_step()
    finally:
        if attachment is not None:
            attachment.remove()
    return training.log


def _loader(
    task: Task,
    indices: Sequence[int],
    hyper: Hyperparameters,
    *,
    first: int,
    seed: int,
    accelerator: Accelerator,
    workers: int,
) -> DataLoader[tuple[Tensor, int]]:
    batches = Batches(indices, batch_size=hyper.batch_size, steps=hyper.steps, seed=seed, first=first)
    return DataLoader(
        Draws(task),
        batch_sampler=batches,
        num_workers=workers if len(batches) else 0,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator().manual_seed(seed),  # so that no number is taken from the model's own
    )
