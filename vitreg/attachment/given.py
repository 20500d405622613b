"""What belongs to several passes, and what the caller of `penalty()` knows of each: labels, and masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from vitreg.errors import ArgumentError, StateError, UnsupportedModelError, in_words
from vitreg.functional import object_masks, patch_coverage
from vitreg.grids import block_grid, covered_size
from vitreg.penalties import GivenPenalty, PassPenalty, ReadingPenalty
from vitreg.reader import ForwardPass


def needed_values(
    name: str, penalty: GivenPenalty, blocks: Iterable[int], one: ForwardPass, given: Mapping[str, Any]
) -> list[Tensor]:
    """Return what `penalty` needs to know of a pass: labels, or how far patches are covered, [b, p] a block.

    Raises:
        ArgumentError: it was not given, or not for each picture.
        UnsupportedModelError: masks are given, and a patch grid is not known.
    """
    value, images = given.get(penalty.needs), one.images
    assert images is not None
    if value is None:
        raise ArgumentError(f"{name!r} needs penalty({penalty.needs}=…), one a picture, found none.")
    if not isinstance(value, Tensor) or not value.dim() or len(value) != len(images):
        raise ArgumentError(
            f"Expected {penalty.needs} for {len(images)} pictures as a tensor, found {in_words(value)}."
        )
    value = value.to(images.device, non_blocking=images.is_cuda)  # a CPU has to wait for it
    if penalty.needs == "labels":
        return [value]
    size = (images.shape[-2], images.shape[-1])
    masks = object_masks(value, images, covered_size(one.tower, size))
    parts = []
    for index in blocks:
        pooled = one.tower.pool if penalty.query == "pool" else None
        block = pooled or one.tower.blocks[index]
        grid = block_grid(one.tower, block, size)
        if grid is None:
            raise UnsupportedModelError(
                f"{name!r} needs the patch grid of block {block.name!r}, which is not known. Say it in "
                "`TowerParts(grid=…)` or `TowerParts(patch_size=…)` of its tower."
            )
        parts.append(patch_coverage(masks, grid))
    return parts


def split(name: str, given: Any, counts: Sequence[int], chosen: Sequence[Tensor] | None = None) -> list[Any]:
    """Return each pass's part of what was given for the images of all; `counts` says how many it has.

    Of `chosen` images alone, where these are given for each pass.

    Raises:
        ArgumentError: some are chosen, and it was not given for each image.
    """
    if given is None or (chosen is None and len(counts) == 1):
        return [given] * len(counts)
    has_length = isinstance(given, Sequence) or (isinstance(given, Tensor) and given.dim() > 0)
    if not has_length or len(given) != sum(counts):
        if chosen is None:
            return [given] * len(counts)
        raise ArgumentError(f"Expected {name} for {sum(counts)} pictures, found {in_words(given)}.")
    starts = [sum(counts[:index]) for index in range(len(counts))]
    parts = [given[start : start + count] for start, count in zip(starts, counts, strict=True)]
    if chosen is None:
        return parts
    return [
        part[rows.to(part.device)] if isinstance(part, Tensor) else [part[row] for row in rows.tolist()]
        for part, rows in zip(parts, chosen, strict=True)
    ]


def between_passes(
    penalties: Mapping[str, ReadingPenalty],
    blocks: Mapping[str, Iterable[int]],
    passes: Sequence[ForwardPass],
) -> dict[str, Tensor]:
    """Return the value of each penalty that compares passes.

    Raises:
        StateError: there is one pass, or they are of other pictures.
    """
    values = {}
    for name, penalty in penalties.items():
        if not isinstance(penalty, PassPenalty):
            continue
        key = (penalty.extractor, penalty.query)
        target = [one.of(key, blocks[name])[0] for one in passes]
        if len(target) < 2 or any(value.shape != target[0].shape for value in target):
            raise StateError(
                f"{name!r} compares two passes over the same pictures since the last penalty, found "
                f"{[list(value.shape) for value in target]}. Run the model on them twice before that."
            )
        values[name] = penalty.value(target, [])
    return values
