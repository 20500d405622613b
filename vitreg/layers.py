"""Which blocks: from what a user writes to sorted indices, and back to words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vitreg.errors import ArgumentError
from vitreg.types import Layers

_NUM_SPREAD = 5
"""How many blocks "spread" means."""


def resolve_layers(layers: Layers, depth: int) -> tuple[int, ...]:
    """Return the sorted indices of the blocks that `layers` means in a model of `depth` blocks.

    Raises:
        ArgumentError: an index is out of range or given twice, nothing is selected, or the type is wrong.
    """
    if isinstance(layers, str):
        if layers not in ("all", "spread"):
            raise ArgumentError(f"layers must be indices, a slice, 'all' or 'spread', got {layers!r}.")
        if layers == "all" or depth <= _NUM_SPREAD:
            return tuple(range(depth))
        return tuple(round(depth * place / _NUM_SPREAD) - 1 for place in range(1, _NUM_SPREAD + 1))
    if isinstance(layers, slice):
        try:
            indices = sorted(range(depth)[layers])
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"layers must be indices, a slice, 'all' or 'spread', got {layers!r}: {error}."
            ) from error
    else:
        given = [layers] if isinstance(layers, int) and not isinstance(layers, bool) else layers
        if not isinstance(given, Sequence) or not all(
            isinstance(i, int) and not isinstance(i, bool) for i in given
        ):
            raise ArgumentError(f"layers must be indices, a slice, 'all' or 'spread', got {layers!r}.")
        for index in given:
            if not -depth <= index < depth:
                raise ArgumentError(
                    f"layers must lie between {-depth} and {depth - 1} in a model of {depth} blocks, "
                    f"got {index}."
                )
        indices = sorted(index % depth for index in given)
    if not indices:
        raise ArgumentError(f"layers={layers!r} selects none of the model's {depth} blocks.")
    if len(set(indices)) < len(indices):
        raise ArgumentError(f"layers={layers!r} names a block twice in a model of {depth} blocks.")
    return tuple(indices)


def ranges(indices: Iterable[int]) -> str:
    """Return sorted indices in words: "2, 5–7"."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
