"""The one training loop: AdamW, a cosine over the steps, cross-entropy and whatever penalty is attached."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader

import vitreg
from vitreg.train.basics.distributed import mean_over_ranks, parallel, vary_random_numbers, world_size
from vitreg.train.basics.sharding import shard, shared_out
from vitreg.train.data.batches import Batches, Draws, Slices
from vitreg.train.data.dataset import Task
from vitreg.train.data.kept_views import kept_views
from vitreg.train.training.checkpoint import Checkpoints
from vitreg.train.training.composition import needs_masks
from vitreg.train.training.device import checkpoint_blocks
from vitreg.train.training.guided_model import Applied, Whole
from vitreg.train.training.hyperparameters import Hyperparameters
from vitreg.train.training.methods import METHODS, target_of
from vitreg.train.training.state import DivergenceError, Entry, Measurement, Training
from vitreg.train.training.step import Step, check_step

WARMUP_START = 1e-6
"""The learning rate at the first step of a warm-up."""

LOGGED_STEPS = 20
"""How many times in a run the loss and the penalty's terms are noted."""


def train(
    model: nn.Module,
    task: Task,
    indices: Sequence[int],
    hyper: Hyperparameters,
    *,
    seed: int,
    accelerator: Accelerator,
    method: str = "fine-tune",
    lam: float | None = None,
    workers: int = 0,
    measure: Measurement | None = None,
    readings: Path | None = None,
    whole: Whole | None = None,
    on_start: Callable[[], None] = lambda: None,
    on_step: Callable[[], None] = lambda: None,
    on_entry: Callable[[Entry], None] = lambda entry: None,
    checkpoints: Checkpoints | None = None,
) -> list[Entry]:
    """Train `model` in place on `indices` of the task and return the log: step, loss, lr, unweighted terms.

    The source of a method is the model as it comes in, and nothing of the method stays on it afterwards. With
    `checkpoints` the training goes on from the last one, to the same weights and log as if it had never been
    interrupted; `on_step` and `on_entry` are told of the steps and the entries before it, too, and `on_start`
    that the others begin. `measure` adds what it measures to the log, now and then and after the last step.
    What a source reads of a finite number of views is kept in the folder `readings`. `whole` is the source
    with its own head, for Co-tuning.

    Several processes train one model: each takes an equal slice of every batch, and the log has the means
    over them, so that weights and log are those of one process up to rounding. This does not hold where
    random numbers are drawn while training, for stochastic depth and for mixed pictures, which each process
    draws for its own slice. With `hyper.fsdp` each holds a part of the weights.

    Raises:
        DivergenceError: The loss is no longer finite.
        InputError: The batch, or a weight, cannot be divided among the processes.
    """
    check_step(hyper, [method])
    model.to(accelerator.device).train()
    given, is_sharded = model, hyper.fsdp and world_size() > 1
    if is_sharded:
        model = shared_out(given, accelerator.device)
    is_cuda = accelerator.device.type == "cuda"
    on_device = partial(Tensor.to, device=accelerator.device, non_blocking=is_cuda)
    sizes = {"num_classes": len(task.classes), "num_pictures": len(task.train_labels)}
    with Applied(model, method, lam, hyper, **sizes, readings=readings, whole=whole) as applied:
        if is_sharded:
            shard([*applied.blocks(), model], accelerator.device)
        optimizer = _optimizer(model, method, hyper)
        schedule = _schedule(optimizer, hyper, num_pictures=len(indices))
        applied.project(optimizer)
        training = Training(given, model, optimizer, applied.projector, applied.attachment)
        vary_random_numbers(seed)
        if checkpoints is not None:
            checkpoints.restore(training, indices)
        if applied.attachment is not None:
            applied.attachment.step = training.step
        for _ in range(training.step):
            on_step()
        for entry in training.log:
            on_entry(entry)
        batches = Batches(
            indices,
            batch_size=hyper.batch_size,
            steps=hyper.steps,
            seed=seed,
            first=training.step,
            views=hyper.views,
        )
        if hyper.grad_checkpointing:
            checkpoint_blocks(model)
        with nullcontext(model) if is_sharded else parallel(model, accelerator) as replica:
            passes = Step(model, replica, applied, accelerator, hyper, training.micro_batch)
            read = partial(loader, has_masks=needs_masks(target_of(method, lam)))
            on_start()
            for drawn in read(task, batches, hyper, accelerator=accelerator, workers=workers):
                step, is_first = training.step, training.step == batches.first
                schedule.step_update(step)
                pictures, labels, *masks = map(on_device, (*drawn[:2], *drawn[3:]))
                pictures, labels = applied.mix(task.normalise(pictures), labels)
                values = passes.gradients(optimizer, pictures, labels, drawn[2], *masks, step=step)
                if applied.adapters is not None and is_first:
                    applied.adapters.check_gradients()
                optimizer.step()
                is_last = step == hyper.steps - 1
                entry = {}
                if step % max(1, hyper.steps // LOGGED_STEPS) == 0 or is_last:
                    noted = mean_over_ranks({name: float(value) for name, value in values.items()})
                    is_finite = math.isfinite(noted.pop("objective"))
                    entry = {"lr": max(group["lr"] for group in optimizer.param_groups), **noted}
                    if not is_finite:
                        raise DivergenceError(
                            f"the loss is not finite at step {step} ({entry}); try a smaller --lr or --lam"
                        )
                if measure is not None and (measure.is_due(step + 1) or is_last):
                    entry |= measure.of(training.whole_model())
                    model.train()
                    if is_sharded:
                        given.cpu()
                if entry:
                    training.log.append({"step": step, **entry})
                    on_entry(training.log[-1])
                training.step, training.micro_batch = step + 1, passes.size
                if checkpoints is not None:
                    checkpoints.save(training, is_last=is_last)
                on_step()
    training.whole_model().to(accelerator.device)
    if hyper.grad_checkpointing:
        checkpoint_blocks(model, enable=False)
    return training.log


def _optimizer(model: nn.Module, method: str, hyper: Hyperparameters) -> torch.optim.Optimizer:
    """Return AdamW on what `method` trains, with a learning rate for each layer where it wants that."""
    trained: Any = model
    layer_decay = METHODS[method].layer_decay if hyper.layer_decay == 1 else hyper.layer_decay
    if layer_decay != 1:
        trained = vitreg.param_groups(model, hyper.lr, hyper.weight_decay, layer_decay=layer_decay)
    return create_optimizer_v2(trained, opt="adamw", lr=hyper.lr, weight_decay=hyper.weight_decay)


def _schedule(
    optimizer: torch.optim.Optimizer, hyper: Hyperparameters, *, num_pictures: int
) -> CosineLRScheduler:
    # NOTE[DIFF]: the paper does not say whether it warms up; "DINO's fine-tuning configuration" has 5 epochs.
    # In a subset smaller than a batch an epoch is not a whole step; at most half of the run is
    # warm-up.
    warmup = math.ceil(hyper.warmup_epochs * num_pictures / hyper.batch_size)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(hyper.steps, 2),  # which is the same for one step, and nothing timm warns of
        warmup_t=min(warmup, hyper.steps // 2),
        warmup_lr_init=WARMUP_START,
        t_in_epochs=False,
    )


def loader(
    task: Task,
    batches: Batches,
    hyper: Hyperparameters,
    *,
    accelerator: Accelerator,
    workers: int,
    has_masks: bool = False,
) -> Iterable[Sequence[Tensor]]:
    """Return pictures uint8 [b, 3, size, size], labels [b] and views [b] of the batches, one by one.

    With `has_masks` also bool [b, size, size], where the objects are; not of a finite number of views.
    A finite number of views is computed once and kept, on the device where it has room.
    """
    if hyper.views:
        kept = kept_views(task, hyper.views, accelerator.device)
        return kept.batches(Slices(batches), task.train_labels, workers=workers, seed=batches.seed)
    return DataLoader(
        Draws(task.train, task.train_labels, has_masks=has_masks),
        batch_sampler=Slices(batches),
        num_workers=workers if len(batches) else 0,
        pin_memory=accelerator.device.type == "cuda",
        # So that no number is taken from the model's own generator.
        generator=torch.Generator().manual_seed(batches.seed),
    )
