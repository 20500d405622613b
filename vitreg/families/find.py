"""Find the Vision Transformer in a model."""

from __future__ import annotations

from torch import nn

from vitreg.errors import ArgumentError, UnsupportedModelError
from vitreg.families.registries import BlockParts, composites, families, load, outermost, towers
from vitreg.types import Block, Tower


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
    if not found:
        raise UnsupportedModelError(_no_tower(model))
    if len(found) > 1:
        names = ", ".join(f"{name!r} ({type(module).__name__})" for name, module in found)
        raise UnsupportedModelError(
            f"Expected one Vision Transformer in {type(model).__name__}, found {len(found)}: {names}. "
            "Pass the one you mean."
        )
    name, module = found[0]
    describe = towers.find(module)
    assert describe is not None
    parts = describe(module)
    names_inside = {id(m): n for n, m in module.named_modules()}
    blocks = [_block(names_inside[id(part.block)], part) for part in parts.blocks]
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
    )


def _block(name: str, parts: BlockParts) -> Block:
    family = None if parts.attention is None else families.find(parts.attention)
    reading, obstacle = None, ""
    if family is not None:
        try:
            reading = family(parts.attention)
        except UnsupportedModelError as error:  # the block's output can be read all the same
            obstacle = str(error)
    return Block(name, parts.block, parts.attention, parts.ffn, reading, obstacle)


def _home(model: nn.Module, name: str, tower: nn.Module) -> nn.Module:
    """Return the outermost composite on the way from `model` to `tower`, or `tower`."""
    path = name.split(".") if name else []
    for depth in range(len(path)):
        ancestor = model.get_submodule(".".join(path[:depth]))
        if isinstance(ancestor, tuple(composites)):
            return ancestor
    return tower


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


def _no_tower(model: nn.Module) -> str:
    known = sorted({type(m).__name__ for m in model.modules() if families.find(m) is not None})
    hint = (
        f"It uses known attention ({', '.join(known)}): say where its parts are with "
        "`@vitreg.register_tower`."
        if known
        else "It has no known attention either: see `vitreg.register_family` and `vitreg.register_tower`."
    )
    return (
        f"Expected a Vision Transformer of a known class ({', '.join(towers.names())}), "
        f"found none in {type(model).__name__}. {hint}"
    )
