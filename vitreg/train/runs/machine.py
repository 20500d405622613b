"""What a run ran on, as far as it may change its figures."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch
from accelerate import Accelerator

import vitreg
from vitreg.train.basics.distributed import world_size


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
