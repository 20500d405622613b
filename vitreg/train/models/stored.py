"""A trained model as a file that says how to use it."""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vitreg.errors import InputError
from vitreg.train.data.transforms import EVALUATION_RATIO
from vitreg.train.models.weights import state_hash
from vitreg.weights import finite
from vitreg.wording import first_line, listed, plain

MODEL_FILE = "model.safetensors"

_KEY, _SUM = "vitreg", "sha256"
"""The entry of the metadata that holds the card, and the card's for its own checksum and the weights'."""

_MOST = {
    **{"img_size": 4096, "patch_size": 256, "embed_dim": 8192, "depth": 256, "num_heads": 256},
    "mlp_ratio": 64,
}
"""The arguments that a card may have, and how large each may be."""


@dataclass(frozen=True)
class Card:
    """What it takes to use a stored model; kept in the metadata of its file, so the two cannot part.

    `timm.create_model(architecture, num_classes=len(classes), **model_args)` builds it, and `run` names the
    folder of the run that trained it.
    """

    architecture: str
    model_args: dict[str, Any]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    run: str = ""


def model_file(model: nn.Module, card: Card) -> bytes:
    """Return the model as a safetensors file with its card, which vouches for itself and for the weights."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    noted = {**asdict(card), _SUM: _sum(asdict(card), state)}
    # One entry alone: safetensors writes several in an order that changes from process to process.
    return save(state, metadata={_KEY: json.dumps(noted)})


def load_stored(path: Path) -> tuple[nn.Module, Card]:
    """Return a stored model and its card, from its file or the folder it lies in.

    The card decides what is built, so it may only name a model that timm has, or a plugin has given it, and
    arguments of its size. Files from before there were checksums are read as they are.

    Raises:
        InputError: It cannot be read, was not stored by `vitreg finetune`, is not what was stored, or does
            not fit what timm builds.
    """
    path = path / MODEL_FILE if path.is_dir() else path
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot read the model {path}: expected a whole {MODEL_FILE} that vitreg finetune wrote "
            f"({first_line(error)}); copy it again, or train it again"
        ) from error
    if _KEY not in metadata:
        raise InputError(
            f"{path} does not say how it is used; expected a {MODEL_FILE} that vitreg finetune wrote"
        )
    try:
        noted = json.loads(metadata[_KEY])
        stored_sum = noted.pop(_SUM, None)
        if stored_sum is not None and stored_sum != _sum(noted, state):
            raise ValueError("it is not what was written: its checksum is another; train it again")
        card = _card(noted)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is damaged or was not written by vitreg: {first_line(error)}") from error
    finite(state, str(path))
    return _build(card, state, path).eval(), card


def _sum(noted: dict[str, Any], state: dict[str, Tensor]) -> str:
    """Return the checksum of a card and the weights beside it."""
    return hashlib.sha256(f"{json.dumps(noted, sort_keys=True)}{state_hash(state)}".encode()).hexdigest()


def _card(noted: dict[str, Any]) -> Card:
    """Return the card that was noted; whatever it says, it can only be used to build a model of some size."""
    numbers = {key: tuple(float(value) for value in noted[key]) for key in ("mean", "std")}
    classes, size, arguments = tuple(noted["classes"]), noted["size"], dict(noted["model_args"])
    card = Card(**{**noted, **numbers, "classes": classes, "model_args": arguments})
    for name, value in (*arguments.items(), ("img_size", size)):
        most = _MOST.get(name)
        if most is None or isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"expected arguments of {listed(_MOST)}, found {name!r} = {value!r}"[:200])
        if not 0 < value <= most:
            raise ValueError(f"expected {name} above 0 and up to {most}, found {value}")
    if not all(len(of) == 3 and all(map(math.isfinite, of)) for of in numbers.values()) or min(card.std) <= 0:
        raise ValueError(f"expected three means and deviations, found {numbers}")
    if not classes or not all(isinstance(name, str) for name in (*classes, card.architecture, card.run)):
        raise ValueError("expected names of classes")
    if len(set(classes)) < len(classes):
        raise ValueError("expected different names of classes")
    return card


def _build(card: Card, state: dict[str, Tensor], path: Path) -> nn.Module:
    if not timm.is_model(card.architecture) or set(card.architecture) & set(":/\\"):
        raise InputError(
            f"{path} cannot be used with timm {timm.__version__}, which has no model "
            f"{plain(card.architecture)[:80]!r}; if it is a model of your own, add its --plugin FILE.py"
        )

    def create() -> nn.Module:
        built: nn.Module = timm.create_model(
            card.architecture, num_classes=len(card.classes), pretrained=False, **card.model_args
        )
        return built

    try:
        # First without memory: a small file does not make a large model. Old versions of timm compute numbers
        # there, which cannot be read.
        with suppress(NotImplementedError, RuntimeError), torch.device("meta"):
            wanted = {key: value.shape for key, value in create().state_dict().items()}
            if wanted != {key: value.shape for key, value in state.items()}:
                raise ValueError("the weights are not those of the model that it names")
        model = create()
        model.load_state_dict(state)
    except (ValueError, TypeError, RuntimeError, AssertionError, KeyError) as error:
        raise InputError(
            f"{path} cannot be used with timm {timm.__version__}: {first_line(error)}"
        ) from error
    return model


def timm_config(card: Card) -> str:
    """Return the config.json with which `timm.create_model("local-dir:FOLDER", pretrained=True)` works."""
    num_classes = len(card.classes)
    settings = {
        "num_classes": num_classes,
        "input_size": [3, card.size, card.size],
        "mean": card.mean,
        "std": card.std,
        "interpolation": "bicubic",
        # timm rounds size / crop_pct down, which has to give the short side that evaluation_transform has.
        "crop_pct": card.size / (round(card.size * EVALUATION_RATIO) + 0.5),
        "label_names": card.classes,
    }
    config = {
        "architecture": card.architecture,
        "num_classes": num_classes,
        "model_args": card.model_args,
        "pretrained_cfg": settings,
        "label_names": card.classes,
    }
    return json.dumps(config, indent=1) + "\n"
