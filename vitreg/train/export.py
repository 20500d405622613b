"""A stored model as a file for other programs, which is kept only if it computes what the model does."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

import vitreg
from vitreg.errors import InputError, MissingLibraryError
from vitreg.files import prepare_out, write_atomically
from vitreg.pictures.finding import find_pictures
from vitreg.train.basics.console import make_console, say
from vitreg.train.data.dataset import evenly, normalise
from vitreg.train.data.transforms import EVALUATION_RATIO
from vitreg.train.models.stored import Card
from vitreg.train.trained_model import load_model
from vitreg.wording import first_line, nearest

NUM_PICTURES = 10
"""Pictures by which the file is compared with the model, together and one alone."""

TOLERANCE = 1e-3
"""The largest difference of a logit from the model's own, as a share of the largest logit."""

Run = Callable[[Tensor], Tensor]
Converter = Callable[[nn.Module, Tensor], tuple[bytes, Run]]


def export(
    model: str | Path,
    *,
    format: str = "onnx",
    out: str | Path | None = None,
    pictures: Sequence[str | Path] = (),
    console: Console | None = None,
) -> Path:
    """Write a model that `finetune` stored for other programs; returns the file.

    It takes any number of normalised pictures, float32 [b, 3, size, size], and gives logits [b, classes].
    Beside it lies FILE.json with what to do to a picture before, and the class names. Nothing is written if,
    on ten pictures, a logit differs from the model's own by more than a thousandth of the largest.

    Args:
        model: the `out` of `finetune`, or its model.safetensors.
        format: "onnx", or "torch" for a program of `torch.export`.
        out: the file; None for model.onnx or model.pt2 beside the model.
        pictures: files or folders from which the ten are taken; without any they are drawn at random.
        console: as in `finetune`.

    Raises:
        InputError: The model or a picture cannot be read, the format cannot hold the model, or what it holds
            computes something else.
        MissingLibraryError: A library of the extra `export` is not installed.
    """
    if format not in _FORMATS:
        raise InputError(f"--format {format}: expected {' or '.join(_FORMATS)}{nearest(format, _FORMATS)}")
    convert, ending = _FORMATS[format]
    place, trained = Path(model), load_model(model, device="cpu")
    folder = place if place.is_dir() else place.parent
    file = folder / f"model.{ending}" if out is None else Path(out)
    prepare_out(file.parent)
    found = find_pictures(map(Path, pictures)).pictures if pictures else []
    chosen = [found[index] for index in evenly(len(found), at_most=NUM_PICTURES)]
    compared = trained.prepare(chosen) if chosen else _random_pictures(trained.card)
    content, run = _convert(convert, trained.network, compared[:2], format)
    difference = _difference(trained.network, run, compared)
    if not difference <= TOLERANCE:
        raise InputError(
            f"expected logits within {TOLERANCE:g} of the model's, found {difference:.1e} in {format}: "
            "nothing was written; try the other --format, or another version of torch"
        )
    write_atomically(file, content)
    write_atomically(file.with_name(f"{file.name}.json"), _notes(trained.card, difference))
    kind = "of your pictures" if chosen else "pictures drawn at random"
    said = (
        f"{file}: logits within {difference:.1e} of the model's on {len(compared)} {kind}; {file.name}.json "
        "says how to use it"
    )
    say(console or make_console(), said)
    return file


def _convert(convert: Converter, network: nn.Module, example: Tensor, format: str) -> tuple[bytes, Run]:
    example = example if len(example) > 1 else example.repeat(2, 1, 1, 1)  # one would be taken for always one
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporters among themselves
            return convert(network, example)
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            f'--format {format} needs {error.name}, which is not installed: pip install "vitreg[export]"'
        ) from error
    except Exception as error:  # an exporter raises whatever a model leads it into
        raise InputError(f"this model cannot be written as {format}: {first_line(error)}") from error


def _onnx(network: nn.Module, example: Tensor) -> tuple[bytes, Run]:
    runtime: Any = importlib.import_module("onnxruntime")
    program = torch.onnx.export(
        network,
        (example,),
        input_names=["pictures"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # which is for `dynamo=False`
    content = program.model_proto.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda batch: torch.from_numpy(session.run(None, {"pictures": batch.numpy()})[0])


def _torch(network: nn.Module, example: Tensor) -> tuple[bytes, Run]:
    program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    file = BytesIO()
    torch.export.save(program, file)
    return file.getvalue(), torch.export.load(BytesIO(file.getvalue())).module()


_FORMATS: dict[str, tuple[Converter, str]] = {"onnx": (_onnx, "onnx"), "torch": (_torch, "pt2")}


@torch.no_grad()
def _difference(network: nn.Module, run: Run, pictures: Tensor) -> float:
    """Return how far logits of `run` are from the network's at most, as a share of the network's largest."""
    expected = network(pictures)
    found = torch.cat([run(pictures), run(pictures[:1])])
    difference = (found - torch.cat([expected, expected[:1]])).abs().max()
    return float(difference / expected.abs().max())


def _random_pictures(card: Card) -> Tensor:
    """Return pictures of random patches, coarse and fine, normalised."""
    generator = torch.Generator().manual_seed(0)
    patches = [torch.rand(1, 3, side, side, generator=generator) for side in range(2, 2 + NUM_PICTURES)]
    drawn = torch.cat([F.interpolate(patch, (card.size, card.size), mode="nearest") for patch in patches])
    return normalise((255 * drawn).round(), card.mean, card.std)


def _notes(card: Card, difference: float) -> str:
    """Return what it takes to use the file, as JSON."""
    notes = {
        "architecture": card.architecture,
        "input": {
            "name": "pictures",
            "shape": ["batch", 3, card.size, card.size],
            "type": "float32",
            "channels": "RGB",
        },
        "preprocessing": [  # of a picture in red, green and blue, in this order
            {
                "resize_short_side": round(card.size * EVALUATION_RATIO),
                "interpolation": "bicubic, antialiased",
            },
            {"centre_crop": card.size},
            {"divide_by": 255},
            {"subtract_mean": card.mean, "divide_by_std": card.std},
        ],
        "output": {
            "name": "logits",
            "shape": ["batch", len(card.classes)],
            "probabilities": "softmax over classes",
        },
        "classes": card.classes,
        "largest_difference": difference,
        "versions": {"vitreg": vitreg.__version__, "torch": torch.__version__},
    }
    return json.dumps(notes, indent=1, ensure_ascii=False) + "\n"
