"""What the tests of a GPU share; they need PyTorch, timm and pytest alone.

`VITREG_GPU_TESTS_ON=cpu` rehearses them on a CPU, so that they work on the first GPU that comes along.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    """Return the GPU, or the device on which the tests are rehearsed."""
    name = os.environ.get("VITREG_GPU_TESTS_ON", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(name)


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    """Return the device of a test that a CPU cannot rehearse."""
    if device.type != "cuda":
        pytest.skip("has no counterpart on a CPU")
    return device


@pytest.fixture(autouse=True)
def _exact_float32() -> Iterator[None]:
    """Compute float32 in float32, and not in TF32, as a comparison with the CPU needs it."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    yield
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(products)
