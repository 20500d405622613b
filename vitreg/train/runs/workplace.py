"""Where runs are computed, and how, and what of that may change their figures."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

import vitreg
from vitreg.train.basics.distributed import world_size
from vitreg.train.basics.progress import Progress
from vitreg.train.training.checkpoint import SECONDS


@dataclass(frozen=True)
class Workplace:
    """Where runs are computed and stored, and who is told of it.

    Attributes:
        out: the folder of all runs.
        accelerator: the device and the precision.
        workers: how many processes read pictures.
        progress: what the person who waits sees.
        checkpoint_seconds: of training that an interruption may cost; 0 for no checkpoints.
        keeps_models: whether the trained weights stay beside each report.
        trackers: of accelerate's, which are told each run's log as it comes.
    """

    out: Path
    accelerator: Accelerator
    workers: int
    progress: Progress
    checkpoint_seconds: float = SECONDS
    keeps_models: bool = False
    trackers: Sequence[str] = ()


def machine(accelerator: Accelerator) -> dict[str, Any]:
    """Return what a run ran on: devices, instructions, threads, and versions that may change its figures."""
    device = accelerator.device
    packages = ("torch", "torchvision", "timm", "accelerate", "torchmetrics", "numpy", "pillow")
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "python": platform.python_version(),
        "versions": {"vitreg": vitreg.__version__, **{package: version(package) for package in packages}},
    }
