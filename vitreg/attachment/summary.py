"""What is attached to a model, in a few lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields

from vitreg.layers import ranges
from vitreg.penalties import Penalty, ReadingPenalty
from vitreg.sources.frozen import FrozenSource, Source
from vitreg.types import Tower


def summary(
    tower: Tower,
    source: Source | None,
    penalties: Mapping[str, Penalty],
    blocks: Mapping[str, Iterable[int]],
    state: str,
) -> str:
    """Return a line for the attachment, which is in `state`, and one for each penalty and the source.

    `blocks` are those that each penalty on readings reads.
    """
    place = f" at {tower.name!r}" if tower.name else ""
    lines = [f"Attachment to {type(tower.module).__name__}{place}, {len(tower.blocks)} blocks, {state}"]
    for name, penalty in penalties.items():
        what = "reads parameters"
        if isinstance(penalty, ReadingPenalty):
            what = f"reads {penalty.extractor} of blocks {ranges(blocks[name])}"
        lines.append(f"  {name}: {_in_short(penalty)} {what}")
    if source is not None:
        weight = next(source.tower.module.parameters())
        kind = "frozen" if isinstance(source, FrozenSource) else "the base of"
        lines.append(f"  source: {kind} {type(source.tower.module).__name__} on {weight.device}")
    return "\n".join(lines)


def _in_short(penalty: Penalty) -> str:
    """Return the penalty with its weight and those options that are not the default."""
    given = [
        f"{field.name}={getattr(penalty, field.name)!r}"
        for field in fields(penalty)
        if field.name == "lam" or getattr(penalty, field.name) != field.default
    ]
    return f"{type(penalty).__name__}({', '.join(given)})"
