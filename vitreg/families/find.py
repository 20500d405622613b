"""Find the Vision Transformer in a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitreg.errors import ArgumentError, UnsupportedModelError
from vitreg.families.registries import (
    BlockParts,
    TowerParts,
    composites,
    families,
    load,
    outermost,
    towers,
)
from vitreg.families.structure import (
    checked_parts,
    refusal,
    rotary_reading,
    structural_parts,
    structural_reading,
    structural_towers,
)
from vitreg.functional.first_tensor import first_tensor
from vitreg.hooks import eagerly
from vitreg.types import Block, Probe, Tap, Tower


@eagerly
def find_tower(model: nn.Module) -> Tower:
    """Return the one Vision Transformer inside `model`, which may be `model` itself.

    Raises:
        ArgumentError: `model` is not a module, or it is compiled already.
        UnsupportedModelError: it holds no Vision Transformer that vitreg knows, or several.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"Expected a torch.nn.Module, got {type(model).__name__}.")
    _refuse_compiled(model)
    load()
    found = list(outermost(model, towers))
    if len(found) > 1:  # some classes hold convolutional networks too, which no one means
        found = [one for one in found if _has_blocks(one[1])] or found
    if not found:
        found, reasons = structural_towers(model)
        if not found:
            raise UnsupportedModelError(refusal(model, reasons))
    if len(found) > 1:
        names = ", ".join(f"{name!r} ({type(module).__name__})" for name, module in found)
        raise UnsupportedModelError(
            f"Expected one Vision Transformer in {type(model).__name__}, found {len(found)}: {names}. "
            "Pass the one you mean."
        )
    name, module = found[0]
    parts = _parts(module)
    names_inside = {id(m): n for n, m in module.named_modules()}
    blocks = [_block(names_inside[id(part.block)], part, parts) for part in parts.blocks]
    return Tower(
        module=module,
        name=name,
        home=_home(model, name, module),
        stem=parts.stem,
        blocks=tuple(blocks),
        heads=parts.heads,
        num_prefix_tokens=parts.num_prefix_tokens,
        has_class_token=parts.has_class_token,
        grid=parts.grid,
        width=parts.width,
        position_embeddings=parts.position_embeddings,
        batch_first=parts.batch_first,
        patch_size=parts.patch_size,
        covered=parts.covered,
        pool=None if parts.pool is None else _block(names_inside[id(parts.pool.block)], parts.pool, parts),
        features=parts.features,
    )


def _parts(module: nn.Module) -> TowerParts:
    """Return a tower's parts: those registered for its class, and checked if a subclass changes it."""
    describe = towers.find(module)
    if describe is None:
        return structural_parts(module)
    return describe(module) if towers.is_own(module) else checked_parts(module, describe(module))


def _has_blocks(module: nn.Module) -> bool:
    describe = towers.find(module)
    try:
        return describe is not None and bool(list(describe(module).blocks))
    except UnsupportedModelError:
        return False


def _block(name: str, parts: BlockParts, tower: TowerParts) -> Block:
    reading, obstacle = parts.reading, parts.obstacle
    if reading is None and parts.attention is not None and not obstacle:
        family = families.find(parts.attention)
        try:
            if family is not None:
                reading = family(parts.attention)
            else:
                reading = rotary_reading(parts.attention, tower) or structural_reading(parts.attention, tower)
        except UnsupportedModelError as error:  # the block's output can be read all the same
            obstacle = str(error)
    output = parts.output
    if output is None and reading is not None:
        output = reading.output
    if output is None and parts.attention is not None:
        output = Probe({"output": Tap(parts.attention)}, _attention_output)
    return Block(
        name,
        parts.block,
        parts.attention,
        parts.ffn,
        reading,
        obstacle,
        output,
        parts.whole,
        tower.num_prefix_tokens if parts.num_prefix_tokens is None else parts.num_prefix_tokens,
        tower.has_class_token if parts.has_class_token is None else parts.has_class_token,
        tower.grid if parts.grid is None else parts.grid,
    )


def _attention_output(seen: Mapping[str, Any]) -> Tensor:
    return first_tensor(
        seen["output"],
        what="msa_output",
        returned_by="the attention",
        remedy="Register the class with `@vitreg.register_family` and say in `output` how it is read.",
    )


def _home(model: nn.Module, name: str, tower: nn.Module) -> nn.Module:
    """Return the outermost composite on the way from `model` to `tower`, or `tower`."""
    path = name.split(".") if name else []
    for depth in range(len(path)):
        ancestor = model.get_submodule(".".join(path[:depth]))
        if isinstance(ancestor, tuple(composites)) or _has_text_tower(ancestor):
            return ancestor
    return tower


def _has_text_tower(module: nn.Module) -> bool:
    """Return whether `module` is written like OpenAI's CLIP, of which there are many copies."""
    return callable(getattr(module, "encode_image", None)) and callable(getattr(module, "encode_text", None))


def _refuse_compiled(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None:
            raise ArgumentError(
                f"Expected an eager model, found {name or 'the model itself'!r} compiled by torch.compile: "
                "hooks added after compilation would see nothing. Attach first, compile afterwards "
                "(pass the original module, e.g. `compiled._orig_mod`)."
            )
        if isinstance(module, nn.DataParallel):
            raise ArgumentError(
                "nn.DataParallel runs copies of the model, whose readings would be lost. "
                "Use torch.nn.parallel.DistributedDataParallel."
            )
