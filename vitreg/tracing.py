"""Read a Vision Transformer: the values of every block, as the model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from vitreg.errors import ArgumentError, StateError
from vitreg.extractors import blocks_read, check_query, extractors
from vitreg.families import find_tower
from vitreg.reader import Reader
from vitreg.registry import suggest
from vitreg.types import Layers, Query


class Trace(Mapping[str, list[Tensor]]):
    """What `trace` yields: from an extractor's name to its values in the last forward pass."""

    def __init__(self, reader: Reader, blocks: Mapping[str, tuple[int, ...]], query: Query) -> None:
        self._reader = reader
        self._blocks = blocks
        self._query = query

    def __getitem__(self, name: str) -> list[Tensor]:
        if name not in self._blocks:
            raise ArgumentError(f"{name!r} is not traced. {suggest(str(name), self._blocks)}")
        if not self._reader.complete():
            raise StateError(
                f"{name} is read during a forward pass; "
                f"{self._reader.skipped or 'the last one was cut short'}. "
                "Run the model inside the `with` block first."
            )
        return self._reader.of((name, self._query), self._blocks[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)


@contextmanager
def trace(model: nn.Module, *names: str, layers: Layers = "all", query: Query = "cls") -> Iterator[Trace]:
    """Read a model while it runs: `with trace(model, "attn_logits") as t: model(x)`.

    Each forward pass replaces the values of the one before. They keep their gradients, and they are there
    in training and evaluation mode alike. After the block the last values can still be looked at.

    Args:
        model: a Vision Transformer, or a module with one inside.
        *names: names of extractors, see `vitreg.list_extractors()`.
        layers: which blocks.
        query: whose attention is read, where attention is: "cls", "mean" or "pool".

    Yields:
        A mapping from an extractor's name to a list with one tensor a block, e.g. [b, h, p] for
        `attn_logits`; `features` has one tensor.

    Raises:
        ArgumentError: an unknown extractor or query, or `layers` that select nothing.
        UnsupportedModelError: the model cannot be read that way.
    """
    if not names:
        raise ArgumentError(f"Name what to read: one or more of {', '.join(extractors.names())}.")
    if len(set(names)) < len(names):
        raise ArgumentError(f"An extractor is named twice: {', '.join(names)}.")
    check_query(query)
    tower = find_tower(model)
    # One value a pass, such as `features`, goes together with a choice of layers for the others.
    blocks = {
        name: blocks_read(
            name, layers if name not in extractors or extractors[name].per_block else "all", query, tower
        )
        for name in names
    }
    reader = Reader(tower, {(name, query): indices for name, indices in blocks.items()})
    try:
        yield Trace(reader, blocks, query)
    finally:
        reader.remove()
