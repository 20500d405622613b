"""Parameters with their starts, a few at a time: as many as a processor works on at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitreg.functional.shards import local
from vitreg.functional.shifts import Shifts, precise
from vitreg.parameters.origins import Origin

CHUNK = {"cpu": 2**20}
"""How many weights are in a chunk, on a CPU about as many as fit into its cache."""
LARGE_CHUNK = 2**24
"""The same for other devices, for which few and large calls are fast."""


class WeightChunk(NamedTuple):
    """A few parameters of one type on one device, and which of their gradients are ascended."""

    origins: list[Origin]
    ascended: list[bool]

    def weights(self) -> list[Tensor]:
        """Return the parameters, or this process's shards, to be written to."""
        return [local(origin.parameter) for origin in self.origins]

    def starts(self) -> list[Tensor]:
        """Return where they started, on the device where they are now."""
        for origin, weight in zip(self.origins, self.weights(), strict=True):
            origin.start = origin.start.to(weight.device)
        return [origin.start for origin in self.origins]

    def shifts(self) -> Shifts:
        """Return how far they are from there."""
        return Shifts(self.weights(), self.starts(), self.origins[0].group)

    def gradients(self, scale: Tensor | None) -> list[Tensor]:
        """Return the gradients of what falls, in float32 at least, without the `scale` of `GradScaler`."""
        found = [precise(local(origin.parameter.grad)) for origin in self.origins]  # type: ignore[arg-type]
        if scale is not None:
            found = [gradient / scale.to(gradient.device) for gradient in found]
        return [-one if is_ascended else one for one, is_ascended in zip(found, self.ascended, strict=True)]


def weight_chunks(moved: Iterable[tuple[Origin, bool]]) -> Iterator[WeightChunk]:
    """Yield the parameters in chunks; those that are sharded by the same processes all at once."""
    chunks: dict[Any, WeightChunk] = {}
    counts: dict[Any, int] = {}
    for origin, is_ascended in moved:
        weight = local(origin.parameter)
        key = weight.device, weight.dtype == torch.float64, origin.group
        chunk = chunks.setdefault(key, WeightChunk([], []))
        chunk.origins.append(origin)
        chunk.ascended.append(is_ascended)
        counts[key] = counts.get(key, 0) + weight.numel()
        if counts[key] >= CHUNK.get(weight.device.type, LARGE_CHUNK) and origin.group is None:
            yield chunks.pop(key)
            counts.pop(key)
    yield from chunks.values()
