"""The pre-trained model that every method starts from, and how its input is normalised."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import timm
from torch import Tensor, nn

import vitreg
from vitreg.errors import InputError
from vitreg.train.data.dataset import Statistics
from vitreg.train.models.pretrained import open_weights
from vitreg.train.models.weights import empty_model, file_hash, load_model


def _headless() -> nn.Module:
    raise InputError(
        "expected weights with the head of the source's own task (head.weight), found none there"
    )


@dataclass(frozen=True)
class Start:
    """What all methods start from: `create(num_classes, drop_path)` returns the source with a new head.

    `label` is its name in a table of several sources. `whole()` returns it with the head of its own task, and
    raises `InputError` where its weights have none.
    """

    name: str
    fingerprint: str
    create: Callable[[int, float], nn.Module] = field(repr=False)
    label: str = ""
    whole: Callable[[], nn.Module] = field(default=_headless, repr=False)


def photographed_start(
    weights: str, name: str, *, size: int, label: str = "", say: Callable[[str], None] = lambda text: None
) -> Start:
    """Return the timm model `name` for pictures of `size` pixels with `weights`, in memory.

    The code of a model that is not timm's own is a part of the fingerprint.

    Raises:
        InputError: There is no such model, or the weights cannot be read or do not fit.
    """
    empty_model(name, num_classes=2, size=size)
    state, fingerprint = open_weights(weights, name, say=say)
    load_model(name, state, num_classes=2, size=size)
    if code := _own_code(name):
        fingerprint = hashlib.sha256(f"{fingerprint} {code}".encode()).hexdigest()
    return start_of(state, name, fingerprint=fingerprint, size=size, label=label)


def start_of(state: dict[str, Tensor], name: str, *, fingerprint: str, size: int, label: str = "") -> Start:
    """Return the timm model `name` for pictures of `size` pixels with the weights `state`."""

    def create(num_classes: int, drop_path: float) -> nn.Module:
        return load_model(name, state, num_classes=num_classes, size=size, drop_path=drop_path)

    if "head.weight" not in state:
        return Start(name, fingerprint, create, label)
    num_own = len(state["head.weight"])
    whole = partial(load_model, name, state, num_classes=num_own, size=size, has_head=True)
    return Start(name, fingerprint, create, label, whole)


def _own_code(name: str) -> str:
    """Return a hash of the file that builds a model of one's own, or nothing for timm's own models."""
    module = sys.modules[timm.model_entrypoint(name.partition(".")[0]).__module__]
    is_own = module.__name__.partition(".")[0] != "timm"
    return file_hash(Path(module.__file__)) if is_own and module.__file__ else ""


def input_statistics(
    normalise: str | None, model: str, size: int, *, say: Callable[[str], None]
) -> Statistics:
    """Return ImageNet's mean and deviation, or those that timm notes for `model` if `normalise` is "model".

    Where nobody chose and timm notes others, it is said.
    """
    fixed = timm.data.resolve_model_data_config(empty_model(model, num_classes=2, size=size))
    noted = Statistics(tuple(fixed["mean"]), tuple(fixed["std"]))
    if normalise == "model":
        return noted
    if normalise is None and noted != Statistics():
        say(
            f"pictures are normalised as ImageNet's; timm notes a mean of {noted.mean} and a deviation of "
            f"{noted.std} for {model}: if your weights are timm's, add --normalise model"
        )
    return Statistics()


def check_block(start: Start, block: int | None) -> None:
    """Refuse, before any training, a `--block` that the model does not have."""
    last = vitreg.describe(start.create(2, 0.0)).num_blocks - 1
    if block is not None and not 0 <= block <= last:
        raise InputError(f"--block {block}: {start.name} has blocks 0 to {last}")
