"""A trained model as a file that says how to use it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from vitreg.errors import InputError
from vitreg.train.data.transforms import EVALUATION_RATIO

MODEL_FILE = "model.safetensors"


_KEY = "vitreg"


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
    """Return the model as a safetensors file with its card."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    # One entry alone: safetensors writes several in an order that changes from process to process.
    return save(state, metadata={_KEY: json.dumps(asdict(card))})


def load_stored(path: Path) -> tuple[nn.Module, Card]:
    """Return a stored model and its card, from its file or the folder it lies in.

    Raises:
        InputError: It cannot be read, was not stored by `vitreg finetune`, or does not fit what timm builds.
    """
    path = path / MODEL_FILE if path.is_dir() else path
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read the model {path}: {error}") from error
    try:
        stored = json.loads(metadata[_KEY])
        lists = {key: tuple(stored[key]) for key in ("mean", "std", "classes")}
        card = Card(**{**stored, **lists})
        model = timm.create_model(card.architecture, num_classes=len(card.classes), **card.model_args)
        model.load_state_dict(state)
    except KeyError as error:
        raise InputError(
            f"{path} does not say how it is used; expected a {MODEL_FILE} that vitreg finetune wrote"
        ) from error
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        if not timm.is_model(stored["architecture"]):
            reason += f"; if {stored['architecture']} is a model of your own, add its --plugin FILE.py"
        raise InputError(f"{path} cannot be used with timm {timm.__version__}: {reason}") from error
    return model.eval(), card


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
