"""One run on several processes, a GPU each: which of them this is, and what they tell each other.

`accelerate launch` or `torchrun` starts them. The main process alone takes locks, decides what is finished,
reads and writes results, and prints; the others are told. A single process notices nothing of this.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env, set_seed
from torch import nn

from vitreg.errors import InputError

T = TypeVar("T")

PATIENCE = timedelta(days=30)
"""How long the others wait for the main process, which may be waiting for another command's run."""

MOMENT = timedelta(seconds=10)
"""How long a process that ends because of another one waits until that has said why."""

REFUSED = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM"}
"""What accelerate can do with several processes beside DDP, as its environment variables call it."""

_is_alone = False


class OtherProcessError(Exception):
    """The main process failed, and says itself why."""


def connect() -> None:
    """Connect the processes, if several were launched, before anything can go wrong in one of them."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not _are_connected():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def disconnect() -> None:
    """Disconnect this process at the end, as soon as the others have come to it."""
    if _are_connected():
        dist.barrier(group=_channel())
        _channel.cache_clear()
        dist.destroy_process_group()


def world_size() -> int:
    """Return how many processes work together; one inside `on_main`."""
    return dist.get_world_size() if _are_connected() and not _is_alone else 1


def rank() -> int:
    """Return the place of this process among those that work together, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Return whether this is the process that prints and writes."""
    return not _are_connected() or dist.get_rank() == 0


def on_main(function: Callable[[], T]) -> T:
    """Return, in all processes, what `function` returns in the main one, which is alone meanwhile.

    Raises:
        OtherProcessError: `function` raised; the main process raises that error itself.
    """
    global _is_alone
    if world_size() == 1:
        return function()
    told: list[list[T] | None] = [None]
    try:
        if rank() == 0:
            _is_alone = True
            told = [[function()]]
    finally:
        _is_alone = False
        dist.broadcast_object_list(told, src=0, group=_channel())
    if told[0] is None:
        raise OtherProcessError
    return told[0][0]


@contextmanager
def enter_on_main(context: AbstractContextManager[T]) -> Iterator[T]:
    """Enter `context` in the main process alone; what it yields is yielded in all."""
    with ExitStack() as stack:
        yield on_main(lambda: stack.enter_context(context))


def gather(value: T) -> list[T]:
    """Return the `value` of every process, in all of them."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value, group=_channel())
    return values


def mean_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Return the mean over the processes of each of the numbers, by name."""
    each = gather(dict(values))
    return {name: sum(one[name] for one in each) / len(each) for name in values}


def per_rank(batch_size: int) -> int:
    """Return how many pictures of a batch each process takes.

    Raises:
        InputError: The batch cannot be divided evenly.
    """
    if batch_size % world_size():
        near = max(1, round(batch_size / world_size())) * world_size()
        raise InputError(
            f"--batch-size {batch_size} has to be divisible by the number of processes, {world_size()}: "
            f"use {near}"
        )
    return batch_size // world_size()


@contextmanager
def parallel(model: nn.Module, accelerator: Accelerator) -> Iterator[nn.Module]:
    """Yield what computes as `model` and averages gradients over the processes; in one, `model` itself."""
    if world_size() == 1:
        yield model
        return
    prepared = accelerator.prepare(model)
    try:
        yield prepared
    finally:
        accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
        accelerator.free_memory()
        vars(model).pop("forward", None)  # which accelerate leaves there with mixed precision


def vary_random_numbers(seed: int) -> None:
    """Give each process but the main one random numbers of its own, which else were the same in all."""
    if rank() > 0:
        set_seed(int(np.random.SeedSequence([seed, 3, rank()]).generate_state(1)[0]))


def refuse_other_than_ddp() -> None:
    """Raise `InputError` if accelerate was told to divide the model itself among the processes."""
    for variable, name in REFUSED.items():
        if parse_flag_from_env(f"ACCELERATE_USE_{variable}"):
            raise InputError(
                f"several processes are expected to work with DDP, found {name} in accelerate's settings; "
                "start them with accelerate launch --multi_gpu --num_processes N, or torchrun; --fsdp of the "
                "command shares the model out"
            )


def report_failure_once(say: Callable[[], None]) -> None:
    """Let the first process that fails `say` why; what the others meet is its doing, and not said.

    No process ends before the message is printed, because the launcher kills the others as soon as one ends.
    """
    if not _are_connected():
        say()
    elif _is_first_to_fail():
        say()
        with suppress(RuntimeError):
            _store().set("has said why", "")
    else:
        wait_for_failure()


def wait_for_failure() -> None:
    """Wait until the process that failed has said why."""
    with suppress(RuntimeError):  # the process that kept the store has ended, and said why
        _store().wait(["has said why"], MOMENT)


def _is_first_to_fail() -> bool:
    try:
        return bool(_store().add("failed", 1) == 1)
    except RuntimeError:
        return False


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


def _are_connected() -> bool:
    return dist.is_available() and dist.is_initialized()


@cache
def _channel() -> dist.ProcessGroup:
    """Return the group that the processes talk over: without the GPU, and patient."""
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
