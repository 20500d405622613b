"""Whether a parameter is a shard, of which each process has another one."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def sharded_by(parameters: Iterable[Tensor]) -> str | None:
    """Return what has sharded some of `parameters`, "FSDP1" or "FSDP2", or None if all are whole."""
    for parameter in parameters:
        if hasattr(parameter, "placements"):
            return "FSDP2"
        if getattr(parameter, "_is_flat_param", False) or getattr(parameter, "_fsdp_flattened", False):
            return "FSDP1"
    return None
