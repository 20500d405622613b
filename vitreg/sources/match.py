"""Whether a source is of the model's own architecture."""

from __future__ import annotations

from collections.abc import Set

from vitreg.errors import MismatchError
from vitreg.families import towers
from vitreg.types import Tower


def check_match(target: Tower, source: Tower, may_differ: Set[str]) -> None:
    """Raise `MismatchError` unless two towers agree in class, depth, heads, tokens, grid and width.

    Those named in `may_differ` are not compared.
    """
    differences = [
        f"{what}: {ours} in the model, {theirs} in the source"
        for what, ours, theirs in (
            ("class", _class(target), _class(source)),
            ("blocks", len(target.blocks), len(source.blocks)),
            ("heads", _heads(target), _heads(source)),
            ("class token", target.has_class_token, source.has_class_token),
            ("prefix tokens", target.num_prefix_tokens, source.num_prefix_tokens),
            ("patch grid", target.grid, source.grid),
            ("patch size", target.patch_size, source.patch_size),
            ("width", target.width, source.width),
        )
        if ours != theirs and what not in may_differ
    ]
    if differences:
        raise MismatchError(
            f"Expected a source of the model's own architecture; they differ in {'; '.join(differences)}. "
            "Create both by the same call (timm: the same name and img_size), or pass source=None to freeze "
            "a copy of the model as it is now. To guide by a different model, ask for it: "
            "layers={model's block: source's block}, heads='mean', align='resample'."
        )


def _class(tower: Tower) -> str:
    cls = towers.class_of(tower.module)  # FSDP2 makes subclasses, which are the same model
    return "unknown" if cls is None else f"{cls.__module__}.{cls.__qualname__}"


def _heads(tower: Tower) -> list[int | None] | int | None:
    heads = [None if block.reading is None else block.reading.num_heads for block in tower.blocks]
    return heads[0] if len(set(heads)) == 1 else heads
