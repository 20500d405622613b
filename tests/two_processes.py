"""Run a function in two processes that know each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

FSDP2_ON_CPU = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="torch 2.6 shards weights on GPUs alone"
)


def in_two_processes(function: Callable[[int], Any], folder: Path) -> list[Any]:
    """Return what `function(rank)`, of a test file's top level, returns in each of two gloo processes."""
    # The store is this process's, on a port that the system chose and nobody else can take in between.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    mp.spawn(_process, args=(function, store.port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def _process(rank: int, function: Callable[[int], Any], port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.TCPStore("127.0.0.1", port), rank=rank, world_size=2)
    torch.save(function(rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
