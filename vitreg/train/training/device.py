"""The device and precision of a run, and what they mean for its batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from timm.layers import DropPath
from torch import nn

from vitreg.errors import InputError
from vitreg.train.basics.distributed import per_rank, refuse_other_than_ddp, world_size
from vitreg.train.training.hyperparameters import Hyperparameters
from vitreg.train.training.methods import METHODS
from vitreg.train.training.step import check_step


def make_accelerator(device: str = "auto", precision: str = "no") -> Accelerator:
    """Return accelerate's device and precision, and connect the processes if several were launched.

    torch is made to repeat itself exactly. `device` is auto, cpu, cuda or mps, `precision` no, bf16 or auto:
    bf16 on GPUs of CUDA capability 8.0 and more.

    Raises:
        InputError: There is no such device, or the processes were launched to share out the model.
    """
    refuse_other_than_ddp()
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device, True):
        raise InputError(f"--device {device}: torch finds no such device here")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for matrix products that repeat exactly
    torch.use_deterministic_algorithms(True, warn_only=True)
    if precision == "auto":
        is_cuda = device in ("auto", "cuda") and torch.cuda.is_available()
        precision = "bf16" if is_cuda and torch.cuda.get_device_capability() >= (8, 0) else "no"
    return Accelerator(cpu=device == "cpu", mixed_precision=precision)


def unfuse_attention(model: nn.Module) -> None:
    """Let timm's attention in `model` multiply its matrices one by one.

    Raises:
        InputError: There is none that could.
    """
    blocks = [module for module in model.modules() if hasattr(module, "fused_attn")]
    for block in blocks:
        vars(block)["fused_attn"] = False
    if not blocks:
        raise InputError(f"--fused-attention no: {type(model).__name__} has no attention of timm's to switch")


def checkpoint_blocks(model: nn.Module, *, enable: bool = True) -> None:
    """Let the backward pass of `model` compute its blocks again, or not any more.

    Raises:
        InputError: It cannot.
    """
    switch: Callable[[bool], None] | None = getattr(model, "set_grad_checkpointing", None)
    if switch is None:
        raise InputError(
            f"--grad-checkpointing: {type(model).__name__} has no set_grad_checkpointing; use --micro-batch"
        )
    switch(enable)


def drops(model: nn.Module) -> bool:
    """Return whether two training passes of `model` differ, by dropout or by stochastic depth."""
    return any(
        (isinstance(module, nn.Dropout) and module.p) or (isinstance(module, DropPath) and module.drop_prob)
        for module in model.modules()
    )


def check_batch(hyper: Hyperparameters, methods: Sequence[str]) -> None:
    """Raise `InputError` unless the processes can divide a batch evenly, mixed pictures in whole pairs."""
    check_step(hyper, methods)
    mixing = [method for method in methods if METHODS[method].transmix or hyper.mixing]
    if per_rank(hyper.batch_size) % 2 and mixing and world_size() > 1:
        raise InputError(
            f"{mixing[0]} mixes pictures in pairs, and each of the {world_size()} processes its own: "
            f"--batch-size {hyper.batch_size} has to be divisible by {2 * world_size()}"
        )


def workers_for(wanted: int | None, *, has_gpu: bool) -> int:
    """Return how many processes read pictures for a run: on the CPU they would take the cores from it."""
    if wanted is not None:
        return wanted
    return min(8, max(1, (os.cpu_count() or 1) // world_size())) if has_gpu else 0
