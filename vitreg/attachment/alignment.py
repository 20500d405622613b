"""A source that differs from the model: what was asked for, and what it takes to compare the two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from vitreg.attachment.tokens import check_tokens
from vitreg.errors import ArgumentError, MismatchError, UnsupportedModelError
from vitreg.extractors import blocks_read, extractors
from vitreg.families import towers
from vitreg.grids import grid_of
from vitreg.layers import resolve_layers
from vitreg.penalties import Penalty, ReadingPenalty
from vitreg.reader import ALONE, ForwardPass, matters, tensors_in
from vitreg.types import Arguments, Block, Grid, Tower


def may_differ(penalties: Iterable[Penalty]) -> frozenset[str]:
    """Return in what the source may differ from the model, as all penalties that look at it asked for."""
    allowed: frozenset[str] | None = None
    for penalty in penalties:
        if not penalty.needs_source:
            continue
        own: set[str] = set()
        if isinstance(penalty, ReadingPenalty):
            if isinstance(penalty.layers, Mapping):
                own |= {"blocks"}
            if penalty.heads == "mean":
                own |= {"heads"}
            if penalty.align == "resample":
                own |= {"patch grid", "patch size"}
            if own:
                own |= {"class"}
                if extractors[penalty.extractor].of_attention:  # patches only, and no width
                    own |= {"width", "prefix tokens"}
                elif not extractors[penalty.extractor].has_prefix:
                    own |= {"prefix tokens"}
        allowed = frozenset(own) if allowed is None else allowed & own
    return allowed or frozenset()


def block_pairs(penalty: ReadingPenalty, target: Tower, source: Tower | None) -> dict[int, int]:
    """Return which blocks of the model are read, with the source's block beside each.

    Raises:
        ArgumentError: `layers` that select nothing or do not exist, or an option of no use here.
    """
    name, layers = penalty.extractor, penalty.layers
    extractor = extractors[name]
    if penalty.heads == "mean" and not extractor.of_attention:
        raise ArgumentError(f"heads='mean' is for attention; {name} has no heads. Leave it out.")
    if penalty.align == "resample" and extractor.resample is None:
        raise ArgumentError(
            f"align='resample' is for values with a patch grid; {name} has none. Leave it out."
        )
    for tower in (target, source) if penalty.align == "resample" else ():
        if tower is not None and tower.patch_size is None and any(b.grid is None for b in tower.blocks):
            raise UnsupportedModelError(
                f"align='resample' needs patch grids; that of {type(tower.module).__name__} is not known. "
                "Give model and source the same patch and picture size."
            )
    if not isinstance(layers, Mapping):
        return {index: index for index in blocks_read(name, layers, penalty.query, target)}
    if not extractor.per_block or (extractor.of_attention and penalty.query == "pool"):
        raise ArgumentError(
            f"{name} has one value a forward pass here and takes no layers, got {dict(layers)}."
        )
    depth = len((target if source is None else source).blocks)
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in layers.values()):
        raise ArgumentError(
            f"layers as a mapping takes {{model's index: source's index}}, got {dict(layers)}."
        )
    indices = resolve_layers(list(layers), len(target.blocks))
    pairs = {key % len(target.blocks): resolve_layers(value, depth)[0] for key, value in layers.items()}
    return {index: pairs[index] for index in indices}


def _block(penalty: ReadingPenalty, tower: Tower, index: int) -> Block:
    """Return the block that a value of `penalty` belongs to: one of the tower's, or its attention pooling."""
    pooled = penalty.query == "pool" and extractors[penalty.extractor].of_attention
    return tower.pool if pooled and tower.pool is not None else tower.blocks[index]


def runs_source(penalty: ReadingPenalty) -> bool:
    """Return whether the source runs on the pictures for `penalty`."""
    return penalty.needs_source and penalty.runs_source


def arguments_for(ours: Tower, theirs: Tower, one: ForwardPass, resize: bool) -> Arguments:
    """Return with what the source is called beside the images.

    Raises:
        UnsupportedModelError: the model was called with arguments that may mean something else to it.
    """
    args, kwargs = one.more
    if not any(matters(argument) for argument in (*args, *kwargs.values())):
        return ALONE
    same_class = towers.class_of(ours.module) is towers.class_of(theirs.module)
    if not same_class or (resize and any(True for _ in tensors_in(one.more))):
        raise UnsupportedModelError(
            f"Expected {type(ours.module).__name__} to be called with images alone, as its source is a "
            f"{type(theirs.module).__name__} that may see pictures of another size, found further arguments. "
            "Call it without them, or use a source of the same class and size."
        )
    return one.more


def align(
    penalty: ReadingPenalty,
    pairs: Mapping[int, int],
    target: ForwardPass,
    source: ForwardPass,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the model's and the source's values, made comparable where the penalty asks for it.

    Args:
        penalty: says how.
        pairs: which blocks were read, see `block_pairs`.
        target: what was read of the model.
        source: what was read of the source.

    Raises:
        MismatchError: their shapes differ.
        UnsupportedModelError: they are to be resampled, and a patch grid is not known.
    """
    key = (penalty.extractor, penalty.query)
    ours, theirs = target.of(key, pairs), source.of(key, pairs.values())
    for side, indices, values in ((target, pairs.keys(), ours), (source, pairs.values(), theirs)):
        for index, value in zip(indices, values, strict=True):
            check_tokens(penalty.extractor, _block(penalty, side.tower, index), side, value.shape)
    if penalty.align == "resample":
        grids = [(_grid(penalty, target, i), _grid(penalty, source, j)) for i, j in pairs.items()]
        others = [_block(penalty, source.tower, index) for index in pairs.values()]
        theirs = [
            _resample(penalty, value, block, grid)
            for value, block, grid in zip(theirs, others, grids, strict=True)
        ]
    if penalty.heads == "mean":
        ours = [value.mean(1, keepdim=True) for value in ours]
        theirs = [value.mean(1, keepdim=True) for value in theirs]
    for index, one, other in zip(pairs, ours, theirs, strict=True):
        _check_same_shape(penalty, index, one, other)
    return ours, theirs


def _resample(penalty: ReadingPenalty, value: Tensor, block: Block, grids: tuple[Grid, Grid]) -> Tensor:
    resample = extractors[penalty.extractor].resample
    assert resample is not None
    to_grid, from_grid = grids
    return value if to_grid == from_grid else resample(value, block, from_grid, to_grid)


def _grid(penalty: ReadingPenalty, one: ForwardPass, index: int) -> Grid:
    """Return the patch grid of a block in the last pass."""
    block = _block(penalty, one.tower, index)
    assert one.images is not None
    height, width = one.images.shape[-2:]
    grid = block.grid or grid_of(one.tower, (height, width))
    if grid is None:
        raise UnsupportedModelError(
            f"align='resample' needs patch grids; that of block {block.name!r} of "
            f"{type(one.tower.module).__name__} is not known."
        )
    return grid


def _check_same_shape(penalty: ReadingPenalty, index: int, ours: Tensor, theirs: Tensor) -> None:
    """Raise `MismatchError` unless the values of block `index` have one shape."""
    if ours.shape == theirs.shape:
        return
    remedy = (
        "another patch or image size needs align='resample', another number of heads heads='mean'."
        if penalty.align == "exact"
        else "if the model takes another picture size since it was attached (set_input_size), attach again."
    )
    raise MismatchError(
        f"{penalty.extractor} of block {index} is {list(ours.shape)} in the model and "
        f"{list(theirs.shape)} in the source. Token dropping (patch_drop_rate, patch_dropout) "
        f"must be off; {remedy}"
    )
