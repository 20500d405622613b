"""The pre-trained model that every method starts from."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch
from torch import nn

from vitreg.train.models.pretrained import open_weights
from vitreg.train.models.weights import empty_model, file_hash, load_model


@dataclass(frozen=True)
class Start:
    """What all methods start from: `create(num_classes, drop_path)` returns the source with a new head.

    `label` is its name in a table of several sources.
    """

    name: str
    fingerprint: str
    create: Callable[[int, float], nn.Module] = field(repr=False)
    label: str = ""


def photographed_start(
    weights: str,
    name: str,
    *,
    size: int,
    label: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> Start:
    """Return the timm model `name` for pictures of `size` pixels with `weights`, in memory.

    The code of a model that is not timm's own is a part of the fingerprint.

    Raises:
        InputError: There is no such model, or the weights cannot be read or do not fit.
    """
    empty_model(name, num_classes=2, size=size)
    state, fingerprint = open_weights(weights, name, say=say)
    load_model(name, state, num_classes=2, size=size)

    def create(num_classes: int, drop_path: float) -> torch.nn.Module:
        return load_model(name, state, num_classes=num_classes, size=size, drop_path=drop_path)

    if code := _own_code(name):
        fingerprint = hashlib.sha256(f"{fingerprint} {code}".encode()).hexdigest()
    return Start(name, fingerprint, create, label)


def _own_code(name: str) -> str:
    """Return a hash of the file that builds a model of one's own, or nothing for timm's own models."""
    module = sys.modules[timm.model_entrypoint(name.partition(".")[0]).__module__]
    is_own = module.__name__.partition(".")[0] != "timm"
    return file_hash(Path(module.__file__)) if is_own and module.__file__ else ""
