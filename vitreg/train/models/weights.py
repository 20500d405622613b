"""A timm model with the weights of a local file, or an error that names the keys that do not fit."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from vitreg.errors import InputError, UnsupportedModelError
from vitreg.families import find_tower
from vitreg.families.timm_parts import pixels_covered
from vitreg.files import sha256_of
from vitreg.weights import misfits
from vitreg.wording import first_line, listed, nearest


def file_hash(path: Path) -> str:
    """Return the sha256 of a file.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"cannot read the weights {path}: {error.strerror}") from error


def state_hash(state: dict[str, Tensor]) -> str:
    """Return the sha256 of the names, types, shapes and values of tensors, whatever their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def empty_model(name: str, *, num_classes: int, size: int, drop_path: float = 0.0) -> nn.Module:
    """Return the timm model `name` for pictures of `size` pixels, randomly initialised.

    Raises:
        InputError: timm has no such model, it has no class token, or it cannot be built at that size.
    """
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    # A model of one's own need not know stochastic depth.
    depth = {"drop_path_rate": drop_path} if drop_path else {}
    try:
        model = timm.create_model(name, num_classes=num_classes, img_size=size, **depth)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        hint = "; expected a Vision Transformer of timm, as deit_tiny_patch16_224 is"
        raise InputError(
            f"timm cannot build {name} for {size} pixels: {first_line(error)}"
            f"{hint if isinstance(error, TypeError) else ''}"
        ) from error
    embed: Any = getattr(model, "patch_embed", None)
    if pixels_covered(embed) is not None:  # of timm, whose towers then name no size of their patches
        _check_size(name, size, embed.feat_ratio(as_scalar=False))
    try:
        tower = find_tower(model)
    except UnsupportedModelError as error:
        raise InputError(f"{name} cannot be used: {error}") from error
    _check_size(name, size, tower.patch_size or ())
    if not tower.has_class_token:
        raise InputError(
            f"{name} has no class token, whose attention the methods guide; try deit_tiny_patch16_224"
        )
    return model


def _check_size(name: str, size: int, patches: Iterable[int]) -> None:
    for patch in patches:
        if size % patch:
            raise InputError(f"--size {size} is not a multiple of {name}'s patches of {patch} pixels")


def load_model(
    name: str,
    state: dict[str, Tensor],
    *,
    num_classes: int,
    size: int,
    drop_path: float = 0.0,
    has_head: bool = False,
) -> nn.Module:
    """Return the timm model `name` with `state` in everything but its new head; with `has_head` in all of it.

    timm's own filter of the model's family resamples the position embedding to `size` and translates other
    spellings.

    Raises:
        InputError: As `empty_model`, the patches are of another size, or the keys or shapes do not fit.
    """
    model = empty_model(name, num_classes=num_classes, size=size, drop_path=drop_path)
    _check_patches(name, state, model.state_dict())
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        found = _translate(translate, state, model) if translate else dict(state)
    except Exception as error:
        raise InputError(f"the weights do not fit {name}: {first_line(error)}") from error
    own, heads = model.state_dict(), () if has_head else new_heads(model)
    wanted, found = (
        {k: v for k, v in tensors.items() if not k.startswith(heads)} for tensors in (own, found)
    )
    if problems := misfits(found, wanted):
        told = "; ".join(f"{what}: {listed(keys, at_most=3)}" for what, keys in problems.items())
        raise InputError(f"the weights do not fit {name}: {told}")
    model.load_state_dict(found, strict=False)
    return model


def new_heads(model: nn.Module) -> tuple[str, ...]:
    """Return what the names of a model's heads begin with: `head.`, and `head_dist.` of a distilled one."""
    return tuple(f"{name}." for name in dict.fromkeys(("head", *find_tower(model).heads)))


def num_outputs(model: nn.Module) -> int:
    """Return how many classes the head of a model of timm tells apart."""
    state = model.state_dict()
    (number,) = {len(state[f"{head}weight"]) for head in new_heads(model)}
    return number


def _check_patches(name: str, state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Raise `InputError` if the patches are of another size, which timm would resample without a word."""
    key = "patch_embed.proj.weight"
    if key in state and key in own and state[key].dim() == 4 and state[key].shape[2:] != own[key].shape[2:]:
        sizes = (" × ".join(map(str, tensor.shape[2:])) for tensor in (state[key], own[key]))
        raise InputError("the weights do not fit {}: patches of {} instead of {} pixels".format(name, *sizes))


def _translate(translate: Callable[..., Any], state: dict[str, Tensor], model: nn.Module) -> Any:
    """Return `state` as timm spells it: iBOT calls the scale of a layer `gamma_1`, timm `ls1.gamma`."""
    scales = "adapt_layer_scale" in inspect.signature(translate).parameters
    return translate(dict(state), model, **({"adapt_layer_scale": True} if scales else {}))
