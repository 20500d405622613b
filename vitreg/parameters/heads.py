"""Which parameters of a model are a new head, and which came pre-trained with the tower or beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from vitreg.errors import ArgumentError
from vitreg.names import plain_name
from vitreg.registry import suggest
from vitreg.types import NewHead, Tower
from vitreg.wording import near

_LIBRARIES = ("torchvision.models.", "open_clip.", "diffusers.", "sentence_transformers.")
"""Libraries whose models come pre-trained; timm's and transformers' are recognised one by one."""

_NEW_HEADS = ("Classification", "ClassificationWithTeacher", "SemanticSegmentation")
"""The tasks for which transformers puts a head without weights on a pre-trained model."""


def head_parameters(model: nn.Module, tower: Tower, new_head: NewHead | None = None) -> list[nn.Parameter]:
    """Return the parameters of the new head.

    Without `new_head` these are the Vision Transformer's own classifier, which belongs to the new task even
    where the source has one of the same shape, and what stands outside of the pre-trained model. Pre-trained
    are, beside the tower: the whole of a composite such as CLIP; a model of transformers, except for what
    its classes for classification and semantic segmentation put around their base model; and other models of
    timm, torchvision, transformers, open_clip, diffusers and sentence-transformers.

    Args:
        model: the model.
        tower: its Vision Transformer.
        new_head: names of modules or parameters inside `model`; empty where all of it is pre-trained.

    Raises:
        ArgumentError: `model` has nothing of that name.
    """
    if new_head is not None:
        return _parameters_of(model, new_head)
    pretrained = {id(p) for part in _pretrained_parts(model, tower) for p in part.parameters()}
    if tower.home is tower.module and _outer_model(model, tower) in (None, tower.module):
        heads = [tower.module.get_submodule(name) for name in tower.heads]  # by name: a head may be reset
        pretrained -= {id(p) for head in heads for p in head.parameters()}
    return [p for p in model.parameters() if id(p) not in pretrained]


def _parameters_of(model: nn.Module, new_head: NewHead) -> list[nn.Parameter]:
    names = [new_head] if isinstance(new_head, str) else new_head
    if not isinstance(names, Sequence) or not all(isinstance(name, str) and name for name in names):
        raise ArgumentError(
            f"new_head takes names of modules or parameters inside the model, got {new_head!r}."
        )
    named = [(plain_name(name), p) for name, p in model.named_parameters(remove_duplicate=False)]
    chosen: dict[int, nn.Parameter] = {}
    for name in map(plain_name, names):
        inside = {id(p): p for own, p in named if own == name or own.startswith(f"{name}.")}
        if not inside:
            known = [plain_name(own) for own, _ in [*model.named_modules(), *model.named_parameters()] if own]
            rest = "See `model.named_modules()`." if len(known) > 20 and name not in known else ""
            hint = near(name, known, otherwise=rest, at_most=1) if rest else suggest(name, known)
            raise ArgumentError(f"new_head={name!r} names no parameters of {type(model).__name__}. {hint}")
        chosen |= inside
    return list(chosen.values())


def _pretrained_parts(model: nn.Module, tower: Tower) -> Iterator[nn.Module]:
    """Yield the modules that are pre-trained as a whole."""
    yield tower.home
    outer = _outer_model(model, tower)
    if outer is not None:
        yield outer
    path = {name for name, module in model.named_modules() if module in _ancestors(model, tower)}
    for name, module in model.named_modules():
        if name not in path and _is_of_a_library(module):
            yield module


def _outer_model(model: nn.Module, tower: Tower) -> nn.Module | None:
    """Return the pre-trained part of the outermost model of transformers around the tower, or None."""
    for ancestor in _ancestors(model, tower):
        cls = _transformers_class(ancestor)
        if cls is None or ancestor is tower.module:
            continue
        if not ("For" in cls.__name__ and cls.__name__.partition("For")[2].endswith(_NEW_HEADS)):
            return ancestor
        base = getattr(ancestor, "base_model", ancestor)
        return tower.module if base is ancestor else base
    return None


def _ancestors(model: nn.Module, tower: Tower) -> list[nn.Module]:
    """Return the modules from `model` down to the tower."""
    path = tower.name.split(".") if tower.name else []
    return [model.get_submodule(".".join(path[:depth])) for depth in range(len(path) + 1)]


def _is_of_a_library(module: nn.Module) -> bool:
    """Return whether `module` is a model of a library, which comes pre-trained, rather than a layer."""
    cls = type(module)
    if hasattr(module, "pretrained_cfg") or _transformers_class(module) is not None:  # timm, transformers
        return True
    return cls.__module__.startswith(_LIBRARIES) and not cls.__name__.endswith("Head")


def _transformers_class(module: nn.Module) -> type | None:
    """Return the class of transformers, or of a repository of its hub, that a model is one of, or None.

    It is None for a class of the user's that derives from the library's base class alone.
    """
    mro = type(module).__mro__
    if not any(cls.__name__ == "PreTrainedModel" for cls in mro):
        return None
    found = next(
        cls for cls in mro if cls.__module__.partition(".")[0] in ("transformers", "transformers_modules")
    )
    return None if found.__name__.endswith("PreTrainedModel") else found
