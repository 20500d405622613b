"""How many pictures fill a device's memory in a plain training step."""

from __future__ import annotations

import argparse

import torch

from side_by_side import peak_bytes, wait_for
from training import Variant, make_setting, training_step

SHARE = 0.75
"""Of the free memory; the rest is for what the other variants add to the plain step."""

REHEARSED_BYTES = 64 * 2**20
"""Of a CPU, whose memory is not to be filled: there the search is rehearsed."""

PROBES = (8, 16)
"""The batches whose peaks are compared."""

MULTIPLE = 64
"""GPUs get whole multiples of it, as their matrix units like it."""


def batch_that_fills(name: str, *, size: int, options: argparse.Namespace) -> int:
    """Return the largest batch whose plain step needs at most `SHARE` of the free memory.

    The peak of a step grows by the same number of bytes with every picture: two small batches give it.

    Args:
        name: of the model.
        size: pixels a side.
        options: device, amp and compile of the measurement.
    """
    device: torch.device = options.device
    small, large = PROBES
    peaks = []
    for batch_size in PROBES:
        setting = make_setting(name, size=size, batch_size=batch_size, options=options)
        step = training_step(Variant(setting.model()), setting)
        step()  # makes the optimiser's state, which stays
        peaks.append(peak_bytes(step, device))
        del setting, step
    each = (peaks[1] - peaks[0]) / (large - small)
    if device.type == "cuda":
        wait_for(device)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = REHEARSED_BYTES
    most = int((SHARE * free - (peaks[0] - small * each)) / each)
    if most < large:
        raise SystemExit(
            f"expected memory for {large} pictures of {name} at {size} px, found room for {max(most, 0)}: "
            "give --batch-size"
        )
    multiple = MULTIPLE if most >= MULTIPLE else 2
    return most // multiple * multiple
