"""What is attached to a model, in a few lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields

from vitreg.layers import ranges
from vitreg.penalties import Penalty, ReadingPenalty
from vitreg.sources.frozen import FrozenSource, Source
from vitreg.types import Tower


def place_of(tower: Tower) -> str:
    """Return in words what is attached to."""
    place = f" at {tower.name!r}" if tower.name else ""
    return f"{type(tower.module).__name__}{place}, {len(tower.blocks)} blocks"


def what_is_read(penalties: Mapping[str, Penalty], blocks: Mapping[str, Iterable[int]]) -> dict[str, str]:
    """Return in words what each penalty reads; `blocks` are those of each penalty on readings."""
    return {
        name: f"{penalty.extractor} of blocks {ranges(blocks[name])}"
        if isinstance(penalty, ReadingPenalty)
        else "parameters"
        for name, penalty in penalties.items()
    }


def summary(
    place: str, reads: Mapping[str, str], penalties: Mapping[str, Penalty], source: Source | None, state: str
) -> str:
    """Return a line for the attachment, which is in `state`, and one for each penalty and the source.

    For `place` and `reads` see `place_of` and `what_is_read`.
    """
    lines = [f"Attachment to {place}, {state}"]
    lines += [f"  {name}: {_in_short(penalty)} reads {reads[name]}" for name, penalty in penalties.items()]
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
        if field.repr and (field.name == "lam" or getattr(penalty, field.name) != field.default)
    ]
    return f"{type(penalty).__name__}({', '.join(given)})"
