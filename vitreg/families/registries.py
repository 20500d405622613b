"""The registries of attention classes and of Vision Transformers, filled by the files beside this one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vitreg.errors import UnsupportedModelError
from vitreg.registry import ClassRegistry
from vitreg.types import AttentionReading, Probe

_FILES = {
    "torch": ("torch",),
    "timm": ("timm", "timm_variants", "timm_class_attention", "timm_hierarchical"),
    "open_clip": ("open_clip",),
    "torchvision": ("torchvision",),
    "transformers": ("transformers",),
    "peft": ("peft",),
}
"""For each library the files beside this one that know its classes."""


@dataclass(frozen=True)
class BlockParts:
    """One block of a tower: the whole block, its attention module and its feed-forward network.

    The rest is needed only where it differs from what the tower or the attention's family says: how its
    attention is computed (`reading`), how the attention's output and the `whole` block's are read, the tokens
    and patches that this block's attention sees, and, as `obstacle`, why its attention logits cannot be read
    though its output can.
    """

    block: nn.Module
    attention: nn.Module | None
    ffn: nn.Module | None = None
    output: Probe | None = None
    whole: Probe | None = None
    num_prefix_tokens: int | None = None
    has_class_token: bool | None = None
    grid: tuple[int, int] | None = None
    obstacle: str = ""
    reading: AttentionReading | None = None


@dataclass(frozen=True)
class TowerParts:
    """What a tower's registered function says of it; see `vitreg.types.Tower` for the words."""

    stem: nn.Module
    blocks: Iterable[BlockParts]
    heads: tuple[str, ...]
    num_prefix_tokens: int
    has_class_token: bool
    grid: tuple[int, int] | None
    width: int
    position_embeddings: tuple[str, ...] = ()
    batch_first: bool = True
    patch_size: tuple[int, int] | None = None
    covered: tuple[int, int] | None = None
    pool: BlockParts | None = None
    features: Probe | str | None = None


families: ClassRegistry[AttentionReading] = ClassRegistry("family", own_forward=True)
towers: ClassRegistry[TowerParts] = ClassRegistry("tower", own_forward=False)
composites: set[type[nn.Module]] = set()
"""Classes that hold a tower beside other pre-trained parts, such as a text tower."""


def load() -> None:
    """Import the file of every library that has been imported."""
    for library, files in _FILES.items():
        if library in sys.modules:
            for file in files:
                module = importlib.import_module(f"vitreg.families.{file}")
                if hasattr(module, "refresh"):  # its library imports its models one by one
                    module.refresh()


def register_family(
    cls: type[nn.Module],
) -> Callable[[Callable[..., AttentionReading]], Callable[..., AttentionReading]]:
    """Return a decorator that registers how modules of `cls` compute attention.

    The decorated function takes one such module and returns an `AttentionReading`. It holds for
    subclasses too, as long as they keep `cls.forward`.

    Raises:
        ArgumentError: `cls` is no module class, or is registered already.
    """
    load()
    return families.register(cls)


def register_tower(cls: type[nn.Module]) -> Callable[[Callable[..., TowerParts]], Callable[..., TowerParts]]:
    """Return a decorator that registers where a Vision Transformer of class `cls` keeps its parts.

    The decorated function takes one such model and returns a `TowerParts`.

    Raises:
        ArgumentError: `cls` is no module class, or is registered already.
    """
    load()
    return towers.register(cls)


def refuse_mask(module: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]], position: int) -> None:
    """Raise `UnsupportedModelError` if an attention was called with a mask, as its argument `position`.

    A mask is part of what enters the softmax, and the source, which gets the images alone, runs without.
    """
    args, kwargs = call
    mask = args[position] if len(args) > position else kwargs.get("attn_mask")
    causal = args[position + 1] if len(args) > position + 1 else kwargs.get("is_causal")
    if mask is not None or causal:
        raise UnsupportedModelError(
            f"Expected attention over all tokens; this {type(module).__name__} was called with a mask. "
            "Call the model without it, or read block_output."
        )


def refuse_changed_weights(attention: nn.Module) -> None:
    """Raise `UnsupportedModelError` if a module does not compute with its weights as they are.

    The peft library merges an adapter into the weights only while its wrapper runs, a parametrization
    (spectral norm) may change its state whenever the weight is looked at, and where a hook computes it
    (pruning, the older weight norm), the weight is that of the last pass until the module itself runs.
    """
    found = "an adapter" if hasattr(attention, "base_layer") else ""
    found = "a parametrization" if hasattr(attention, "parametrizations") else found
    if any(isinstance(value, Tensor) and "weight" in name for name, value in vars(attention).items()):
        found = "a hook that computes one (pruning, weight norm)"
    if found:
        raise UnsupportedModelError(
            f"The logits are read from the weights of {type(attention).__name__}, found {found} on them. "
            "Leave it without, or read msa_output or block_output."
        )


def list_towers() -> list[str]:
    """Return the qualified names of the Vision Transformer classes that are found in a model, sorted."""
    load()
    return towers.names()


def list_families() -> list[str]:
    """Return the qualified names of the attention classes that can be read, sorted."""
    load()
    return families.names()


def outermost(model: nn.Module, registry: ClassRegistry[TowerParts]) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and module of each registered module that is not inside another registered one."""
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(name == outer or name.startswith(f"{outer}.") or outer == "" for outer in found)
        if not inside and registry.find(module) is not None:
            found.append(name)
            yield name, module
