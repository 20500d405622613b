"""The frozen pre-trained model, run no further than the deepest value that is read."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from vitreg.errors import MismatchError, UnsupportedModelError
from vitreg.families import find_tower, towers
from vitreg.functional.precision import Autocast, autocast_as
from vitreg.reader import Reader, ReadingComplete
from vitreg.types import Tower


class FrozenSource:
    """A frozen copy of a model's Vision Transformer, in eval mode and without gradients.

    It is a copy, so training the original changes nothing here, and no submodule of the model, so its
    weights are in no `parameters()` and no `state_dict()`. Pass `attachment.source` as the source of another
    attachment to share it.
    """

    def __init__(self, model: nn.Module) -> None:
        tower = find_tower(model)
        if any(hasattr(parameter, "placements") for parameter in tower.module.parameters()):
            raise UnsupportedModelError(
                "Expected a source whose weights are whole, found sharded ones (FSDP2), which cannot be "
                "copied. Attach before `fully_shard`, or pass a source that is not sharded."
            )
        module = copy.deepcopy(tower.module).eval().requires_grad_(False)
        for parameter in module.parameters():
            parameter.grad = None
        self.tower = find_tower(module)

    def follow(self, model: nn.Module) -> None:
        """Move to the device and floating-point type of `model`'s weights, if they differ."""
        theirs, ours = next(model.parameters()), next(self.tower.module.parameters())
        if theirs.device != ours.device or theirs.dtype != ours.dtype:
            self.tower.module.to(device=theirs.device, dtype=theirs.dtype)

    def read(self, reader: Reader, images: Tensor, autocast: Autocast | None) -> None:
        """Run on `images` [b, c, height, width] until `reader` has everything, under the given autocast."""
        reader.enabled = True
        try:
            with torch.no_grad(), autocast_as(images, autocast):
                self.tower.module(images)
        except ReadingComplete:
            pass
        finally:
            reader.enabled = False


def freeze_source(source: nn.Module | FrozenSource | None, model: nn.Module, tower: Tower) -> FrozenSource:
    """Return the frozen source of `model`, whose tower is `tower`.

    Raises:
        MismatchError: it differs from the model in architecture.
    """
    if isinstance(source, FrozenSource):
        check_match(tower, source.tower)
        return source
    if source is None:
        return FrozenSource(model)
    check_match(tower, find_tower(source))
    return FrozenSource(source)


def check_match(target: Tower, source: Tower) -> None:
    """Raise `MismatchError` unless two towers agree in class, depth, heads, tokens, grid and width."""
    differences = [
        f"{what}: {ours} in the model, {theirs} in the source"
        for what, ours, theirs in (
            ("class", _class(target), _class(source)),
            ("blocks", len(target.blocks), len(source.blocks)),
            ("heads", _heads(target), _heads(source)),
            ("class token", target.has_class_token, source.has_class_token),
            ("prefix tokens", target.num_prefix_tokens, source.num_prefix_tokens),
            ("patch grid", target.grid, source.grid),
            ("width", target.width, source.width),
        )
        if ours != theirs
    ]
    if differences:
        raise MismatchError(
            f"Expected a source of the model's own architecture; they differ in {'; '.join(differences)}. "
            "Create both by the same call (timm: the same name and img_size), or pass source=None to freeze "
            "a copy of the model as it is now."
        )


def _class(tower: Tower) -> str:
    cls = towers.class_of(tower.module)  # FSDP2 makes subclasses, which are the same model
    return "unknown" if cls is None else f"{cls.__module__}.{cls.__qualname__}"


def _heads(tower: Tower) -> list[int | None] | int | None:
    heads = [None if block.reading is None else block.reading.num_heads for block in tower.blocks]
    return heads[0] if len(set(heads)) == 1 else heads
