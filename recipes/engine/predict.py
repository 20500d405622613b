"""A trained model as a file that says how to use it, and what it predicts."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torchvision.datasets.folder import IMG_EXTENSIONS

from engine.data import Folder, Sample
from engine.errors import RecipeError
from engine.evaluate import BATCH_SIZE
from engine.photos import photo_task
from engine.task import Task
from engine.transforms import EVALUATION_RATIO

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
        RecipeError: It cannot be read, was not stored by `finetune.py`, or does not fit what timm builds.
    """
    path = path / MODEL_FILE if path.is_dir() else path
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"cannot read the model {path}: {error}") from error
    try:
        stored = json.loads(metadata[_KEY])
        lists = {key: tuple(stored[key]) for key in ("mean", "std", "classes")}
        card = Card(**{**stored, **lists})
        model = timm.create_model(card.architecture, num_classes=len(card.classes), **card.model_args)
        model.load_state_dict(state)
    except KeyError as error:
        raise RecipeError(
            f"{path} does not say how it is used; expected a {MODEL_FILE} that finetune.py wrote"
        ) from error
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(f"{path} cannot be used with timm {timm.__version__}: {reason}") from error
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


@torch.no_grad()
def probabilities(
    model: nn.Module,
    task: Task,
    *,
    accelerator: Accelerator,
    on_batch: Callable[[int], None] = lambda pictures: None,
) -> Tensor:
    """Return what the model makes of the task's test pictures: float32 [pictures, classes]."""
    model.to(accelerator.device).eval()
    found = []
    for pictures in task.test.split(BATCH_SIZE):
        with accelerator.autocast():
            logits = model(task.normalised(pictures.to(accelerator.device)))
        found.append(logits.float().softmax(1).cpu())
        on_batch(len(pictures))
    return torch.cat(found)


def evenly(number: int, *, at_most: int = 8) -> list[int]:
    """Return up to `at_most` of `number` indices, evenly spread: the pictures whose attention is shown."""
    count = min(at_most, number)
    return [int((place + 0.5) * number / count) for place in range(count)]


def predictions(
    names: Sequence[str], classes: Sequence[str], shares: Tensor, labels: Sequence[int] | None = None
) -> str:
    """Return a CSV: path, true class (where it is known), predicted class and its probability."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", *([] if labels is None else ["true"]), "predicted", "probability"])
    for index, (name, share) in enumerate(zip(names, shares, strict=True)):
        best = int(share.argmax())
        true = [] if labels is None else [classes[labels[index]]]
        writer.writerow([name, *true, classes[best], f"{float(share[best]):.4f}"])
    return text.getvalue()


def find_pictures(places: Iterable[Path]) -> list[Path]:
    """Return each picture once: those given, and those in the folders given and below, sorted.

    Raises:
        RecipeError: A place does not exist or cannot be listed, or a folder holds no picture.
    """
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise RecipeError(f"there is no picture or folder {place}")
        if place.is_dir():
            inside = sorted(_walk(place))
            if not inside:
                raise RecipeError(f"no picture in {place}; looked for {', '.join(IMG_EXTENSIONS)}")
            found += inside
        else:
            found.append(place)
    return list(dict.fromkeys(found))


def _walk(folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise RecipeError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    for root, _, files in os.walk(folder, onerror=stop):
        yield from (Path(root, file) for file in files if file.lower().endswith(IMG_EXTENSIONS))


def new_pictures(paths: Sequence[Path], card: Card) -> Iterator[Task]:
    """Return pictures as tasks of a batch each, prepared as the test pictures were; the labels are made up.

    Raises:
        RecipeError: A picture cannot be read.
    """
    for start in range(0, len(paths), BATCH_SIZE):
        samples = tuple(Sample(path, 0) for path in paths[start : start + BATCH_SIZE])
        folder = Folder(Path(), card.classes, (), samples)
        yield photo_task(folder, name="new", size=card.size, augment="none", mean=card.mean, std=card.std)
