"""A step's gradients: of the whole batch at once, or the same ones from its parts one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from timm.layers import DropPath, drop_path
from torch import Tensor, nn

import vitreg
from vitreg.attachment.rhythm import is_due
from vitreg.errors import InputError
from vitreg.reader.random_state import random_state, set_random_state
from vitreg.train.basics.distributed import per_rank, world_size
from vitreg.train.training.composition import needs_masks
from vitreg.train.training.guided_model import Applied
from vitreg.train.training.hyperparameters import Hyperparameters
from vitreg.train.training.methods import METHODS, target_of

COMPILER: dict[str, Any] = {"options": {"fallback_random": True}}
"""What `torch.compile` is told: random numbers are those of a step that is not compiled."""


class BatchDropPath(DropPath):
    """Stochastic depth that may be given the `factors` of the pictures that follow, [b]."""

    factors: Tensor | None = None

    def factors_of(self, num_pictures: int, device: torch.device) -> Tensor:
        """Return factors of a whole batch, by the random numbers that its pass would have drawn."""
        return drop_path(
            torch.ones(num_pictures, device=device), self.drop_prob, self.training, self.scale_by_keep
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` [b, ...] with some of its pictures set to zero, and the others larger."""
        if self.factors is None or not self.training:
            return super().forward(x)
        return x * self.factors.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def _take_over(model: nn.Module) -> list[BatchDropPath]:
    """Put `BatchDropPath` in the place of timm's, and return all of the model in their order."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is DropPath and child.drop_prob:
                own = BatchDropPath(child.drop_prob, child.scale_by_keep).train(child.training)
                setattr(parent, name, own)
    return [module for module in model.modules() if isinstance(module, BatchDropPath)]


def check_step(hyper: Hyperparameters, methods: Sequence[str]) -> None:
    """Raise `InputError` if a step cannot be computed in parts, be compiled, or share out the weights."""
    beside = {
        "several processes": world_size() > 1,
        "--views, whose readings are remembered beside it": hyper.views > 0,
        "--fraction, which draws other pictures in each": hyper.fraction < 1,
        "--balance, which looks at its gradients on the way": hyper.balance > 0,
    }
    for what in [what for what, is_asked in beside.items() if hyper.compile and is_asked]:
        raise InputError(f"--compile makes one graph of a step, which does not go with {what}; leave one out")
    in_parts = hyper.micro_batch is not None and hyper.micro_batch < hyper.batch_size
    if in_parts and hyper.balance:
        raise InputError(
            "--balance compares the gradients of a whole batch, which --micro-batch takes apart: use "
            "--grad-checkpointing, which saves memory too, or a smaller --batch-size"
        )
    for method in methods:
        target = target_of(method, 1.0)
        has_passes = isinstance(target, vitreg.PassPenalty)
        needs_whole = METHODS[method].adapters or METHODS[method].projection is not None
        beside = {
            "--compile": hyper.compile and (has_passes or isinstance(target, vitreg.GivenPenalty)),
            "--micro-batch": in_parts and has_passes,
            "--fsdp, as its weights have to be whole": hyper.fsdp
            and world_size() > 1
            and (needs_whole or not getattr(target, "takes_shards", True)),
            "--fsdp beside --balance": hyper.fsdp and world_size() > 1 and hyper.balance > 0,
            "several processes": world_size() > 1 and (has_passes or needs_masks(target)),
            "--fraction": hyper.fraction < 1 and has_passes,
            "--views": hyper.views > 0 and needs_masks(target),
        }
        for what in [what for what, is_asked in beside.items() if is_asked]:
            raise InputError(f"{method} does not go with {what}; leave one out")
        if in_parts and not getattr(target, "is_mean", True):
            raise InputError(
                f"{method} looks at all pictures of a batch at once, which --micro-batch takes apart: use "
                "--grad-checkpointing, which saves memory too, or a smaller --batch-size"
            )
    if hyper.micro_batch == 0 and world_size() > 1:
        raise InputError("--micro-batch auto is for one process; with several give a number of pictures")


class Step:
    """What computes the gradients of one step after the other.

    The parts have `hyper.micro_batch` pictures, the last one what is left, and each counts by its share of
    the batch. Pictures are mixed before, with partners from the whole batch, and stochastic depth draws for
    the whole batch, so that the sums are the whole batch's gradients up to rounding. Dropout, which LoRA has,
    draws for each part. Where the parts are to be found (0), they are halved whenever the device's memory
    does not hold one, and the step is computed anew.

    Args:
        model: the model, on which `applied` is at work.
        replica: what computes as the model and averages gradients over the processes.
        applied: the method.
        accelerator: of the run.
        hyper: says how many pictures a part has.
        found: how many were found before an interruption.

    Attributes:
        size: how many pictures a part has.
    """

    def __init__(
        self,
        model: nn.Module,
        replica: nn.Module,
        applied: Applied,
        accelerator: Accelerator,
        hyper: Hyperparameters,
        found: int = 0,
    ) -> None:
        self._replica, self._applied, self._accelerator = replica, applied, accelerator
        self._is_sought = hyper.micro_batch == 0
        self.size = (found if self._is_sought else hyper.micro_batch) or per_rank(hyper.batch_size)
        self._computes, self._is_compiled, self._every = self._objective, hyper.compile, hyper.every
        if hyper.compile:
            self._computes = torch.compile(self._objective, **COMPILER)
        self._drop_paths = [] if hyper.micro_batch is None else _take_over(model)

    def gradients(
        self,
        optimizer: torch.optim.Optimizer,
        pictures: Tensor,
        labels: Tensor,
        views: Tensor,
        masks: Tensor | None = None,
        *,
        step: int,
    ) -> dict[str, Tensor]:
        """Set the gradients of the batch that `Applied.mix` returned last, and return its values by name.

        These are the objective, the loss, and the penalty's unweighted terms where it was taken.
        """
        state = random_state(pictures.device) if self._is_sought else None
        while True:
            optimizer.zero_grad()
            try:
                return self._sum(pictures, labels, views, masks, step)
            except torch.OutOfMemoryError:
                if state is None or self.size == 1:
                    raise
            self.size = -(-self.size // 2)
            torch.cuda.empty_cache()
            set_random_state(state, pictures.device)

    def _sum(
        self, pictures: Tensor, labels: Tensor, views: Tensor, masks: Tensor | None, step: int
    ) -> dict[str, Tensor]:
        total = len(pictures)
        sums: dict[str, Tensor] = {}  # `dict[str, Tensor]()` breaks a compiled graph
        parts = [slice(start, min(start + self.size, total)) for start in range(0, total, self.size)]
        attachment, before = self._applied.attachment, self._applied.terms
        drawn = [m.factors_of(total, pictures.device) for m in self._drop_paths] if len(parts) > 1 else []
        for part in parts:
            for module, factors in zip(self._drop_paths, drawn, strict=bool(drawn)):
                module.factors = factors[part]
            if attachment is not None:  # all parts are those of one step
                attachment.step = self._told_step(step)
            share = (part.stop - part.start) / total
            waits = part is not parts[-1]
            with self._accelerator.no_sync(self._replica) if waits else nullcontext():
                with self._accelerator.autocast() if self._is_compiled else nullcontext():
                    seen = None if masks is None else masks[part]
                    objective, loss = self._computes(pictures[part], labels[part], views[part], seen, part)
                self._accelerator.backward(share * objective)
            taken = {n: term for n, term in self._applied.terms.items() if term is not before.get(n)}
            for name, value in {"objective": objective, "loss": loss, **taken}.items():
                sums[name] = sums.get(name, 0.0) + share * value.detach()
        for module in self._drop_paths:
            module.factors = None
        return sums

    def _told_step(self, step: int) -> int:
        """Return `step` as the penalty is told it: a compiled one of two, or each were compiled anew."""
        attachment = self._applied.attachment
        if not self._is_compiled or attachment is None:
            return step
        if any(callable(penalty.lam) for penalty in attachment.penalties.values()):
            return step
        return 0 if is_due(step, self._every) else 1  # the first is always due

    def _objective(
        self, pictures: Tensor, labels: Tensor, views: Tensor, masks: Tensor | None, part: slice
    ) -> tuple[Tensor, Tensor]:
        losses = []
        for _ in range(self._applied.passes):
            with nullcontext() if self._is_compiled else self._accelerator.autocast():
                logits = self._replica(pictures)
            losses.append(self._applied.loss(logits, labels, part))
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).mean()
        return loss + self._applied.penalty(loss, views, labels=labels, masks=masks), loss
