"""A model of timm with the weights that were asked for: pre-trained, of a file, or untrained."""

from __future__ import annotations

import inspect
import json
import pickle
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from vitreg.cli.build import first_line
from vitreg.errors import ArgumentError, MismatchError, UnsupportedModelError
from vitreg.families import find_tower
from vitreg.weights import misfits, nothing_executed, read_weights
from vitreg.wording import listed

PRETRAINED: Literal["pretrained"] = "pretrained"
RANDOM: Literal["random"] = "random"

Weights = Path | Literal["pretrained", "random"]
"""A file, timm's pre-trained weights, or untrained ones."""

_NOTES = "vitreg"
"""Under which key of its metadata a file of `vitreg finetune` says how the model is used."""


def in_words(weights: Weights) -> str:
    """Return where the weights come from."""
    return str(weights) if isinstance(weights, Path) else f"{weights} weights"


def load_timm(name: str, weights: Weights, size: int | None) -> nn.Module:
    """Return the model of timm called `name`.

    Args:
        name: as timm has it, known to exist.
        weights: which weights.
        size: side of the picture in pixels, or None for the model's own.

    Raises:
        ArgumentError: the weights cannot be fetched or read, or the model cannot be of that size.
        MismatchError: the file holds other tensors than the model has.
    """
    if weights == PRETRAINED and name.startswith("local-dir:"):
        # timm before its version 1.0.26 executes what else lies in such a folder
        weights = Path(name.removeprefix("local-dir:"), "model.safetensors")
        if not weights.is_file():
            raise ArgumentError(
                f"Expected a folder with config.json and model.safetensors, found no {weights}."
            )
    if isinstance(weights, Path):
        state = read_weights(weights, model=name, say=_say)
        model: Any = _create(name, size, num_classes=_num_classes(name, state))
        has_size = size is not None or name.startswith("local-dir:")  # which notes its own
        _load(model, state, name, weights, may_resample=has_size)
        normalised = {key: tuple(v) for key, v in read_notes(weights).items() if key != "size"}
        model.pretrained_cfg = {**model.pretrained_cfg, **normalised}
        return model
    if weights == RANDOM:
        return _create(name, size)
    if ":" not in name and not get_pretrained_cfg(name, allow_unregistered=False).has_weights:
        raise ArgumentError(
            f"timm has no pre-trained weights of {name}. Give a file with --weights, or --random."
        )
    return _create(name, size, pretrained=True)


def read_notes(path: Path) -> dict[str, Any]:
    """Return size, mean and deviation of the pictures, where `vitreg finetune` noted them, else {}."""
    if path.suffix.lower() != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            noted = (file.metadata() or {}).get(_NOTES)
    except (OSError, SafetensorError):  # read_weights says why
        return {}
    try:
        found = json.loads(noted) if noted is not None else {}
        return {key: found[key] for key in ("size", "mean", "std")} if found else {}
    except (ValueError, KeyError, TypeError) as error:
        raise ArgumentError(
            f"Expected size, mean and std in the metadata {_NOTES!r} of {path}, found {noted!r}. Save its "
            "tensors without metadata, and give --size."
        ) from error


def _create(name: str, size: int | None, **options: Any) -> nn.Module:
    sized = {} if size is None else {"img_size": size}
    try:
        with nothing_executed():
            return timm.create_model(name, **sized, **options)
    except (OSError, SafetensorError, pickle.UnpicklingError) as error:
        remedy = "Without the network, give the name of a timm model with --weights FILE, or --random."
        if name.startswith("local-dir:"):
            remedy = "Expected a folder with config.json and model.safetensors."
        raise ArgumentError(f"Cannot fetch {name}: {first_line(error)}. {remedy}") from error
    except (TypeError, ValueError, AssertionError, LookupError, RuntimeError) as error:
        if size is None and ":" not in name:
            raise  # what timm lists, it builds
        asked = f"{name} for {size} pixels" if size else name
        raise ArgumentError(f"timm cannot build {asked}: {first_line(error)}.") from error


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _heads(model: nn.Module) -> tuple[str, ...]:
    try:
        return find_tower(model).heads
    except UnsupportedModelError:  # which says so when it is drawn
        return ()


def _num_classes(name: str, state: dict[str, Tensor]) -> int:
    """Return how many classes the weights tell apart; 0 without a head, as of self-supervised models."""
    try:  # with a head, whatever a folder says
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=1)
    except Exception:  # a constructor that looks at values, or what is wrong with it, which is said here
        model = _create(name, None, num_classes=1)
    heads = _heads(model)
    weight = state.get(f"{heads[0]}.weight") if heads else None
    return 0 if weight is None or weight.dim() == 0 else len(weight)


def _load(model: nn.Module, state: dict[str, Tensor], name: str, path: Path, *, may_resample: bool) -> None:
    """Load `state`; `may_resample` lets timm bring its position embedding to another picture size."""
    own = model.state_dict()
    known = [f"{head}." for head in _heads(model)]
    if not any(key.startswith("head.") for key in own):  # a trainer's own, such as a projection head
        known.append("head.")
    state = {key: value for key, value in state.items() if key in own or not key.startswith(tuple(known))}
    problems = misfits(state, own)
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if "missing" in problems and translate is not None:  # another spelling, such as gamma_1 for ls1.gamma
        scales = "adapt_layer_scale" in inspect.signature(translate).parameters
        with suppress(Exception):  # then the names stay as they are, and are told
            translated = translate(dict(state), model, **({"adapt_layer_scale": True} if scales else {}))
            if len(misfits(translated, own)) < len(problems):
                state, problems = translated, misfits(translated, own)
    of_size = list(problems) == ["of another shape"] and all(
        key.startswith("pos_embed ") for key in problems["of another shape"]
    )
    if of_size and may_resample and translate is not None:
        state = translate(state, model)
        problems = misfits(state, own)
    if problems:
        told = "; ".join(f"{what}: {listed(keys)}" for what, keys in problems.items())
        remedy = " If they are of another picture size, give it with --size." if of_size else ""
        raise MismatchError(f"The weights in {path} do not fit {name}: {told}.{remedy}")
    model.load_state_dict(state)
