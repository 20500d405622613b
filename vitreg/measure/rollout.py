"""Attention rollout of a model: its attention through all blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitreg import functional
from vitreg.errors import UnsupportedModelError
from vitreg.extractors import check_query, has_query, rows_of
from vitreg.families import find_tower
from vitreg.functional.precision import autocast_now
from vitreg.hooks import Hooks
from vitreg.measure.attention import check_images, picture_grid
from vitreg.reader import Reader, check_taps
from vitreg.sources.forward import evaluating, run_tower
from vitreg.types import AttentionReading, Query, Tap, Tower


def attention_rollout(model: nn.Module, images: Tensor, *, query: Query = "cls") -> Tensor:
    """Return how much of each patch reaches the query through all blocks, [b, rows, columns].

    Args:
        model: a Vision Transformer whose patches attend to each other in every block.
        images: as it receives them, on its device, [b, c, height, width].
        query: whose: "cls", or "mean" for all patches alike.

    Returns:
        The patches' part of `vitreg.functional.attention_rollout`, in float32. It needs the attention of all
        tokens, one row after the other, so it takes longer than reading one query.

    Raises:
        ArgumentError: no batch of images, or an unknown query.
        UnsupportedModelError: a block's attention cannot be read for all tokens.
    """
    tower = find_tower(model)
    check_images(images)
    check_query(query)
    check_all_tokens(tower, query, "Attention rollout")
    matrices: list[Tensor] = []
    receivers = [
        pair
        for block in tower.blocks
        for pair in attention_receivers(block.reading, lambda matrix: matrices.append(matrix.mean(1)))
    ]
    reader = Reader(tower, {})  # it wants nothing, and silences the others
    hooks = Hooks(receivers)
    try:
        with evaluating(tower.module):
            run_tower(reader, images, autocast_now(images))
    finally:
        hooks.remove()
        reader.remove()
    prefix, n = tower.num_prefix_tokens, matrices[0].shape[-1]
    if len(matrices) != len(tower.blocks) or any(m.shape[1:] != (n, n) for m in matrices):
        raise UnsupportedModelError(
            f"Attention rollout needs the same tokens in each of {len(tower.blocks)} blocks that run once; "
            f"found {len(matrices)} readings with {sorted({m.shape[-1] for m in matrices})} tokens."
        )
    start = torch.zeros(n, device=images.device)
    start[: 1 if query == "cls" else None] = 1
    if query == "mean":
        start[:prefix] = 0
    reached = functional.attention_rollout(start / start.sum(), matrices)[:, prefix:]
    return reached.unflatten(-1, picture_grid(tower, 0, query, images, n - prefix))


def check_all_tokens(tower: Tower, query: Query, what: str) -> None:
    """Raise `UnsupportedModelError` unless every block's attention is known for every token."""
    name = type(tower.module).__name__
    if query == "pool" or (query == "cls" and not tower.has_class_token):
        raise UnsupportedModelError(
            f"{what} starts at the class token or the patches, not at query={query!r} of {name}. "
            'Use query="mean".'
        )
    for block in tower.blocks:
        if block.reading is not None and block.reading.maps_per_head > 1:
            raise UnsupportedModelError(
                f"{what} needs the attention that mixes the tokens; each head of {block.name!r} "
                f"of {name} combines {block.reading.maps_per_head} softmaxes. Use attention_maps."
            )
        same_tokens = block.num_prefix_tokens == tower.num_prefix_tokens and block.grid == tower.grid
        if block.reading is None or not same_tokens or not all(has_query(block, q) for q in (query, "mean")):
            why = block.obstacle or "it has not the attention of all tokens."
            raise UnsupportedModelError(
                f"{what} needs each block's attention; block {block.name!r} of {name}: {why} "
                "Use attention_maps for the blocks that can be read."
            )


def attention_receivers(
    reading: AttentionReading | None, keep: Callable[[Tensor], None]
) -> list[tuple[Tap, Callable[[Any], None]]]:
    """Return hooks that keep the block's attention, [b, h, n, n]."""
    assert reading is not None
    check_taps("attention rollout", reading.taps)
    seen: dict[str, Any] = {}

    def receive(key: str, delivered: Any) -> None:
        seen[key] = delivered
        if len(seen) == len(reading.taps):
            keep(rows_of(reading, seen).softmax(-1))
            seen.clear()

    return [(tap, partial(receive, key)) for key, tap in reading.taps.items()]
