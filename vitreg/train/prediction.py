"""New pictures predicted by a stored model, from the files to the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from vitreg.description import describe
from vitreg.errors import InputError
from vitreg.files import prepare_out, write_atomically
from vitreg.pictures.finding import find_pictures, listed_counts
from vitreg.train.attention_overlay import attention_maps, draw_overlays
from vitreg.train.basics.console import make_console, say
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import evenly, normalise
from vitreg.train.data.reading import in_one_line, read_pictures
from vitreg.train.models.stored import MODEL_FILE
from vitreg.train.options import PredictOptions
from vitreg.train.runs.predictions import predictions
from vitreg.train.trained_model import load_model
from vitreg.train.training.evaluation import BATCH_SIZE


@dataclass(frozen=True)
class Predicted:
    """What was predicted of each picture.

    Attributes:
        paths: the pictures that could be read.
        classes: the class names.
        probabilities: float32 [pictures, classes].
        left_out: what was wrong with each picture that could not be read.
        out: the folder of the files, or None where none were written.
    """

    paths: tuple[Path, ...]
    classes: tuple[str, ...]
    probabilities: Tensor
    left_out: tuple[str, ...]
    out: Path | None


def predict(
    pictures: str | Path | Sequence[str | Path],
    *,
    model: str | Path,
    out: str | Path | None = None,
    options: PredictOptions | None = None,
    console: Console | None = None,
) -> Predicted:
    """Predict the classes of new pictures with a model that `finetune` stored.

    Args:
        pictures: picture files, or folders that are searched to the bottom.
        model: the `out` of `finetune`, or its model.safetensors.
        out: where predictions.csv and, with `options.attention`, attention.png are written; None for nowhere.
        options: everything that has a default.
        console: as in `finetune`.

    Raises:
        InputError: No picture, or not the model, can be read, or `out` cannot be written.
    """
    options, console = options or PredictOptions(), console or make_console()
    places = [pictures] if isinstance(pictures, (str, Path)) else pictures
    trained = load_model(model, device=options.device, precision=options.precision)
    card, listed = trained.card, find_pictures(map(Path, places))
    paths = listed.pictures
    out = None if out is None else Path(out)
    if out is not None:
        if (out / MODEL_FILE).exists():
            raise InputError(
                f"--out {out} holds a model and the predictions of its test pictures; give another folder"
            )
        prepare_out(out)
    shown = {paths[place] for place in evenly(len(paths))} if options.attention and out is not None else ()
    found, refused = dict[Path, Tensor](), list[str]()
    overlaid = dict[Path, Tensor]()
    with Progress(console) as progress, progress.stage("predicting") as update:
        left = f"; left out: {listed_counts(listed.left_out)}" if listed.left_out else ""
        progress.say(f"{len(paths)} pictures, {len(card.classes)} classes{left}")
        for start in range(0, len(paths), BATCH_SIZE):
            batch = paths[start : start + BATCH_SIZE]
            read = dict(zip(batch, read_pictures(batch, card.size), strict=True))
            refused += [str(one) for one in read.values() if isinstance(one, InputError)]
            crops = {path: one for path, one in read.items() if isinstance(one, Tensor)}
            update(start + len(batch), len(paths))
            if crops:
                probabilities = trained.probabilities_of(torch.stack(list(crops.values())))
                found |= dict(zip(crops, probabilities, strict=True))
                overlaid |= {path: crop for path, crop in crops.items() if path in shown}
    if not found:
        raise InputError(in_one_line(refused))
    done = tuple(found)
    predicted = Predicted(done, card.classes, torch.stack(list(found.values())), tuple(refused), out)
    if out is not None:
        table = predictions([str(path) for path in done], card.classes, predicted.probabilities)
        files: dict[str, str | bytes] = {"predictions.csv": table}
        if overlaid:
            block = describe(trained.network).num_blocks - 1 if options.block is None else options.block
            crops_shown = torch.stack(list(overlaid.values()))
            images = normalise(crops_shown, card.mean, card.std)
            maps = attention_maps(trained.network, images, block, accelerator=trained.accelerator)
            titles = [f"{path.stem}: {card.classes[int(found[path].argmax())]}" for path in overlaid]
            files["attention.png"] = draw_overlays(crops_shown, {"model": maps}, block=block, titles=titles)
        for name, content in files.items():
            write_atomically(out / name, content)
        say(console, f"{len(done)} pictures predicted; written: {out}: {', '.join(files)}")
    return predicted
