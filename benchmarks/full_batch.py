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

FIRST = 16
"""The smallest batch that is tried."""

MULTIPLE = 64
"""GPUs get whole multiples of it, as their matrix units like it."""


def batch_that_fills(name: str, *, size: int, options: argparse.Namespace) -> int:
    """Return the largest batch whose plain step needs at most `SHARE` of the free memory.

    The batch is doubled while twice its peak fits. There the peak grows by the same number of bytes with
    every picture, which with few pictures hides behind that of the weights.

    Args:
        name: of the model.
        size: pixels a side.
        options: device, amp and compile of the measurement.

    Raises:
        SystemExit: Not even the smallest batch fits.
    """
    device: torch.device = options.device
    allowed = SHARE * _free_bytes(device)
    batch_size, before, peak = FIRST, 0, _peak(name, size=size, batch_size=FIRST, options=options)
    if peak > allowed:
        raise SystemExit(
            f"expected {peak / 1e6:.0f} MB for {FIRST} pictures of {name} at {size} px, found "
            f"{allowed / 1e6:.0f} MB: give --batch-size"
        )
    while 2 * peak <= allowed:
        batch_size, before = 2 * batch_size, peak
        peak = _peak(name, size=size, batch_size=batch_size, options=options)
    each = (peak - before) / (batch_size / 2 if before else batch_size)
    most = batch_size + int((allowed - peak) / each)
    multiple = MULTIPLE if most >= MULTIPLE else 2
    return most // multiple * multiple


def _peak(name: str, *, size: int, batch_size: int, options: argparse.Namespace) -> int:
    setting = make_setting(name, size=size, batch_size=batch_size, options=options)
    step = training_step(Variant(setting.model()), setting)
    step()  # makes the optimiser's state, which stays
    return peak_bytes(step, options.device)


def _free_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return REHEARSED_BYTES
    wait_for(device)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return free
