"""Weights that the processes of a run share out among them by FSDP2."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from vitreg.errors import InputError
from vitreg.train.basics.distributed import world_size
from vitreg.wording import first_line


def shared_out(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of `model`, on the CPU from now on, with the main process's weights, to be sharded."""
    copied = copy.deepcopy(model.cpu()).to(device)
    for tensor in copied.state_dict().values():
        dist.broadcast(tensor, 0)
    return copied


def shard(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Share out the weights of each of the modules among the processes by FSDP2; inner ones come first.

    Raises:
        InputError: One of the weights cannot be divided, or torch does so on GPUs alone.
    """
    if device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
        raise InputError(
            f"--fsdp: torch {torch.__version__} does this on GPUs alone; use torch 2.11 or leave it out"
        )
    from torch.distributed.device_mesh import init_device_mesh  # only where weights are sharded
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world_size(),))
    try:
        for module in modules:
            fully_shard(module, mesh=mesh)
    except ValueError as error:
        raise InputError(f"--fsdp: {first_line(error)}; leave it out") from error


def whole(value: Any, *, keeps: bool = True) -> Any:
    """Return `value`, a tensor or what holds some, with all that is sharded whole and on the CPU.

    Every process has to call it; what is not to be kept becomes None in its place.
    """
    if isinstance(value, Mapping):
        return {key: whole(one, keeps=keeps) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [whole(one, keeps=keeps) for one in value]
    if hasattr(value, "full_tensor"):
        gathered = value.full_tensor()
        return gathered.cpu() if keeps else None
    return value
