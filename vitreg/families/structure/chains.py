"""Chains of blocks in a model: lists of modules, each with attention inside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from vitreg.families.registries import families

_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nheads", "heads")
_MANY = 4
"""A block has one attention or a few side by side; what has more is several blocks."""


@dataclass(frozen=True)
class Link:
    """One block of a chain, by names inside the model.

    Attributes:
        name: the block's.
        parts: names of its parts where the block is a list that is never called, such as [attention, mlp].
    """

    name: str
    parts: tuple[str, ...] = ()

    @property
    def entry(self) -> str:
        """The name of the module that receives the block's tokens."""
        return self.parts[0] if self.parts else self.name

    def inside(self, tower: str) -> Link:
        """Return the same block by its names inside the submodule `tower`."""
        skip = len(tower) + 1 if tower else 0
        return Link(self.name[skip:], tuple(part[skip:] for part in self.parts))


def find_chains(model: nn.Module) -> list[tuple[Link, ...]]:
    """Return the chains of blocks in `model`, the innermost lists first."""
    found: list[tuple[int, tuple[Link, ...]]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential):
            links = tuple(_links(module, name))
            if links and all(_is_block(model.get_submodule(link.name)) for link in links):
                found.append((name.count("."), links))
    found.sort(key=lambda pair: -pair[0])
    chains = [links for _, links in found]
    return [
        one for one in chains if not any(set(one) < set(other) for other in chains)
    ]  # a chunk is no chain


def find_attention(block: nn.Module, name: str) -> list[str]:
    """Return the names of the outermost attention modules in a block; the block's own if it has none inside.

    What a registered family or its class's name says is attention, or what has a number of heads.
    """
    found: list[str] = []
    for inner, module in block.named_modules():
        inside = any(inner.startswith(f"{outer}.") for outer in found)
        if inner and not inside and _is_attention(module):
            found.append(inner)
    if not found and _is_attention(block):
        return [name]
    return [f"{name}.{inner}" for inner in found]


def _links(container: nn.Module, name: str) -> Iterator[Link]:
    """Yield the blocks of a list of blocks, of chunks of blocks, or of lists of a block's parts."""
    items = _items(container, name)
    lists = [isinstance(module, nn.ModuleList | nn.Sequential) for _, module in items]
    if not all(lists):
        yield from (Link(item) for item, _ in items)
        return
    for item, module in items:
        parts = _items(module, item)
        if type(module) is nn.ModuleList and len({type(part) for _, part in parts}) > 1:
            yield Link(item, tuple(part for part, _ in parts))
        elif isinstance(module, nn.Sequential):
            yield Link(item)  # a block that is written as a sequence of its parts
        else:
            yield from (Link(part) for part, _ in parts)


def _items(container: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """Return names and modules of a list; DINOv2's chunks are filled up with `nn.Identity`."""
    prefix = f"{name}." if name else ""
    return [(f"{prefix}{n}", m) for n, m in container.named_children() if not isinstance(m, nn.Identity)]


def _is_block(module: nn.Module) -> bool:
    return 0 < len(find_attention(module, "")) <= _MANY


def _is_attention(module: nn.Module) -> bool:
    if families.find(module) is not None or re.search("attention|attn", type(module).__name__.lower()):
        return True
    has_heads = any(isinstance(getattr(module, name, None), int) for name in _HEADS)
    return (
        has_heads
        and next(module.parameters(), None) is not None
        and not isinstance(module, nn.ModuleList | nn.Sequential)
    )
