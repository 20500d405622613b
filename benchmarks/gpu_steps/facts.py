"""The device as it is found: its name, memory and driver, the versions, and two ceilings that bound all else.

python -m gpu_steps.facts --device cuda --json facts.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from report import facts
from side_by_side import wait_for

ASKED = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm", "clocks.max.memory")
"""What `nvidia-smi` is asked for; nothing of the device is changed."""

OPTIONAL = {
    "open_clip": "the tower of CLIP is timm's class of the same architecture, not open_clip's",
    "transformers": "the rivals from transformers are left out",
    "accelerate": "neither the recipes' loop nor the runs are measured",
    "pytest": "the tests are left out",
}
"""What is missing where a package is."""


READ_FROM = (5, 18)
"""The first version of transformers whose Vision Transformers vitreg reads."""


def _version_of(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version(name).split(".")[:2])


def ceilings(device: torch.device, *, quick: bool) -> dict[str, float]:
    """Return the most the device does: TFLOP/s of a bfloat16 product, TB/s read and written in a copy."""
    side, mebibytes = (256, 4) if quick else (8192, 4096)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = _median_seconds(lambda: a @ b, device)
    source = torch.randn(mebibytes * 2**18, device=device)
    target = torch.empty_like(source)
    copy = _median_seconds(lambda: target.copy_(source), device)
    return {
        "matrix_side": side,
        "matrix_tflops": 2 * side**3 / product / 1e12,
        "copy_bytes": source.nbytes,
        "copy_tb_per_s": 2 * source.nbytes / copy / 1e12,
    }


def _median_seconds(work: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for index in range(13):
        wait_for(device)
        start = time.perf_counter()
        work()
        wait_for(device)
        if index >= 3:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def device_facts(device: torch.device) -> dict[str, object]:
    """Return what PyTorch and the driver say of the device."""
    if device.type != "cuda":
        return {"cores": os.cpu_count(), "instructions": torch.backends.cpu.get_cpu_capability()}
    found = torch.cuda.get_device_properties(device)
    return {
        "cores": os.cpu_count(),
        "memory_bytes": found.total_memory,
        "multiprocessors": found.multi_processor_count,
        "capability": f"{found.major}.{found.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nvidia_smi": _asked_of_the_driver(),
    }


def _asked_of_the_driver() -> dict[str, str]:
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": str(error)}
    return dict(zip(ASKED, (part.strip() for part in told.splitlines()[0].split(",")), strict=False))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write JSON; return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    line = argparse.ArgumentParser(description=__doc__)
    line.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    line.add_argument("--quick", action="store_true")
    line.add_argument("--json", type=Path, required=True)
    options = line.parse_args(argv)
    if options.device.type == "cuda" and not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no CUDA device", file=sys.stderr)
        return 1
    missing = {name: effect for name, effect in OPTIONAL.items() if importlib.util.find_spec(name) is None}
    if "transformers" not in missing and _version_of("transformers") < READ_FROM:
        missing["transformers 5.18 or newer"] = "the guide on its model is left out"
    found = {
        "setting": facts("gpu", options, argv),
        "platform": platform.platform(),
        "device": device_facts(options.device),
        "missing": missing,
        "ceilings": ceilings(options.device, quick=options.quick),
    }
    text = json.dumps(found, indent=2, ensure_ascii=False)
    print(text)
    half = options.json.with_name(options.json.name + ".part")
    half.write_text(text + "\n", encoding="utf-8")
    os.replace(half, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
