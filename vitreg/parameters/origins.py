"""Which parameters of a model started where, for what moves them one by one: by name, whole or sharded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitreg.errors import ArgumentError, MismatchError, UnsupportedModelError, in_words
from vitreg.families import find_tower
from vitreg.functional.shards import local, sharded_by
from vitreg.names import plain_name
from vitreg.parameters.heads import head_parameters
from vitreg.types import NewHead
from vitreg.wording import listed

Given = nn.Module | Mapping[str, Tensor] | Literal["base"] | None
"""A model, its state dict, "base" for adapters that start at zero, None for the weights as they are now."""


@dataclass
class Origin:
    """A parameter, and where it started.

    Attributes:
        name: of the parameter, without what wraps its module.
        parameter: the parameter.
        start: a copy of its value in the source; of a sharded parameter this process's shard.
        group: the processes that hold the other shards, or None for a parameter that is whole.
    """

    name: str
    parameter: Tensor
    start: Tensor
    group: Any = None


@dataclass
class Origins:
    """The parameters of a model, by what is known of their start.

    Attributes:
        paired: those that have one.
        new_head: those of the new head.
        unpaired: those that the source does not have, or has in another shape.
        unselected: those that were not wanted.
        frozen: those that are not trained, by their ids.
    """

    paired: list[Origin] = field(default_factory=list)
    new_head: list[str] = field(default_factory=list)
    unpaired: list[str] = field(default_factory=list)
    unselected: list[str] = field(default_factory=list)
    frozen: dict[int, str] = field(default_factory=dict)

    def in_words(self) -> list[str]:
        """Return what is paired and what is not, a line each."""
        kinds = {
            "the new head": self.new_head,
            "without a partner in the source": self.unpaired,
            "not of the kind that is projected": self.unselected,
            "frozen": list(self.frozen.values()),
        }
        lines = [f"  {len(self.paired)} parameters are pulled toward the source"]
        return lines + [
            f"  left alone, {kind}: {listed(names, at_most=3)}" for kind, names in kinds.items() if names
        ]


def find_origins(
    model: nn.Module,
    source: Given,
    selects: Callable[[str, Tensor], bool],
    trained: Iterable[Tensor],
    new_head: NewHead | None = None,
) -> Origins:
    """Return where the parameters of `model` started; a tied one is there once, by its first paired name.

    Args:
        model: the model.
        source: where they started.
        selects: says of a name and a parameter whether it is wanted.
        trained: the optimiser's parameters; others count if they require a gradient.
        new_head: see `head_parameters`; without it the model has to be a Vision Transformer that is known.

    Raises:
        ArgumentError: `source` is none, "base" without adapters, or another source with adapters.
        MismatchError: the source has none of the parameters.
        UnsupportedModelError: parameters are sharded otherwise than along their first dimension.
    """
    if sharded_by(model.parameters()) == "FSDP1":
        raise UnsupportedModelError(
            "A projection needs parameters one by one, found FSDP1, which joins them. Use DDP or FSDP2 "
            "(torch.distributed.fsdp.fully_shard)."
        )
    named: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        named.setdefault(id(parameter), []).append(plain_name(name))
    tower = find_tower(model) if new_head is None else None
    is_head = {id(p) for p in head_parameters(model, tower, new_head)}  # type: ignore[arg-type]
    starts, prefix = _starts(model, source)
    is_trained = {id(p) for p in trained}
    found = Origins()
    for parameter in model.parameters():
        names = named[id(parameter)]
        known = [n for n in names if _fits(starts.get(n.removeprefix(prefix)), parameter)]
        name = (known or names)[0]
        if id(parameter) in is_head:
            found.new_head.append(name)
        elif not parameter.requires_grad and id(parameter) not in is_trained:
            found.frozen[id(parameter)] = name
        elif not selects(name, parameter):
            found.unselected.append(name)
        elif not known:
            found.unpaired.append(name)
        else:
            found.paired.append(_origin(name, parameter, starts[name.removeprefix(prefix)]))
    if not found.paired and found.unpaired:
        raise MismatchError(
            f"Expected parameters of {type(model).__name__} in the source, found none of their names and "
            f"shapes, such as {found.unpaired[0]!r}. Create source and model by the same call."
        )
    return found


def _fits(start: Tensor | None, parameter: Tensor) -> bool:
    return start is not None and start.shape == parameter.shape and start.is_floating_point()


def _starts(model: nn.Module, source: Given) -> tuple[Mapping[str, Tensor], str]:
    """Return the start by name, and with what the model's names begin that these do without."""
    adapted = _adapters(model)
    if isinstance(source, str) and source == "base":
        if not adapted:
            raise ArgumentError(
                "source='base' is for a model with adapters of the peft library, found none in "
                f"{type(model).__name__}. Use peft.get_peft_model first, or pass source=None."
            )
        return adapted, ""
    if adapted:
        raise ArgumentError(
            "Expected source='base' for a model with adapters of the peft library, whose weights start at "
            f"zero, found {'None' if source is None else in_words(source)}. Pass source='base'."
        )
    source = model if source is None else source
    if isinstance(source, nn.Module):
        given = {plain_name(n): p.detach() for n, p in source.named_parameters(remove_duplicate=False)}
    elif isinstance(source, Mapping):
        given = {plain_name(str(n)): t for n, t in source.items() if isinstance(t, Tensor)}
    else:
        raise ArgumentError(
            f"source must be a model, its state dict, 'base' or None, got {in_words(source)}."
        )
    own = {plain_name(name) for name, _ in model.named_parameters(remove_duplicate=False)}
    if own & given.keys():
        return given, ""
    # The one is the tower alone, and the other holds it somewhere.
    places = (find_tower(part).name if isinstance(part, nn.Module) else "" for part in (source, model))
    inside, outside = (f"{plain_name(name)}." if name else "" for name in places)
    return {n.removeprefix(inside): p for n, p in given.items() if n.startswith(inside)}, outside


def _adapters(model: nn.Module) -> dict[str, Tensor]:
    """Return a zero for each parameter of the LoRA adapters in a model, by name."""
    starts: dict[str, Tensor] = {}
    for place, layer in model.named_modules():
        kinds = getattr(layer, "adapter_layer_names", ())
        if not callable(getattr(layer, "enable_adapters", None)) or not hasattr(layer, "base_layer"):
            continue
        for kind in kinds:
            part = getattr(layer, kind, None)
            if part is None or not len(part):
                continue
            if not kind.startswith(("lora_A", "lora_B", "lora_embedding_")):
                raise UnsupportedModelError(
                    f"A projection of adapters knows LoRA's, which start at zero, found {kind} at {place!r}. "
                    "Use LoRA without variants such as DoRA."
                )
            for name, p in part.named_parameters():
                starts[plain_name(f"{place}.{kind}.{name}")] = torch.zeros(()).expand(p.shape)
    return starts


def _origin(name: str, parameter: Tensor, start: Tensor) -> Origin:
    """Return a parameter with a copy of its start, divided as it is itself."""
    if not hasattr(parameter, "placements"):
        if hasattr(start, "placements"):
            start = start.full_tensor()  # type: ignore[attr-defined]
        return Origin(name, parameter, _copy(start, parameter))
    from torch.distributed.tensor import distribute_tensor  # only where there are such

    mesh: Any = parameter.device_mesh  # type: ignore[attr-defined]
    placements: Any = parameter.placements
    divided = [dim for dim, placement in enumerate(placements) if not placement.is_replicate()]
    if len(divided) > 1 or any(not placements[dim].is_shard(0) for dim in divided):
        raise UnsupportedModelError(
            "A projection needs weights that are whole or sharded along their first dimension, found "
            f"{name!r} with {placements}. Shard it by fully_shard alone."
        )
    if not hasattr(start, "placements"):
        start = distribute_tensor(start.to(mesh.device_type), mesh, placements)
    group = mesh.get_group(divided[0]) if divided and mesh.size(divided[0]) > 1 else None
    return Origin(name, parameter, _copy(local(start), local(parameter)), group)


def _copy(start: Tensor, parameter: Tensor) -> Tensor:
    # Contiguous, as a zero that is expanded is one number in memory.
    return start.detach().to(parameter.device, parameter.dtype, copy=True).contiguous()
