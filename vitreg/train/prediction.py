"""New pictures predicted by a stored model, from the files to the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from vitreg.errors import InputError
from vitreg.files import prepare_out, write_atomically
from vitreg.pictures.finding import find_pictures, listed_counts
from vitreg.train.attention_overlay import attention_maps, draw_overlays, object_block
from vitreg.train.basics.console import make_console
from vitreg.train.basics.progress import Progress
from vitreg.train.data.photographs import in_one_line
from vitreg.train.models.stored import load_stored
from vitreg.train.options import PredictOptions
from vitreg.train.predictions import evenly, new_pictures, predictions, probabilities
from vitreg.train.training.device import make_accelerator


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
    trained, card = load_stored(Path(model))
    listed = find_pictures(map(Path, places))
    paths = listed.pictures
    accelerator = make_accelerator(options.device, options.precision)
    out = None if out is None else Path(out)
    if out is not None:
        prepare_out(out)
    shown = evenly(len(paths)) if options.attention and out is not None else []
    found, overlaid, maps, block = [], [], [], options.block
    done: list[Path] = []
    refused: list[str] = []
    with Progress(console) as progress, progress.stage("predicting") as update:
        left = f"; left out: {listed_counts(listed.left_out)}" if listed.left_out else ""
        progress.say(f"{len(paths)} pictures, {len(card.classes)} classes{left}")
        for task, read, wrong in new_pictures(paths, card):
            refused += wrong
            update(len(done) + len(read) + len(refused), len(paths))
            if task is None:
                continue
            found.append(probabilities(trained, task, accelerator=accelerator))
            done += read
            places_of = {path: place for place, path in enumerate(read)}
            here = [places_of[paths[index]] for index in shown if paths[index] in places_of]
            if here:
                if block is None:
                    block = object_block(trained, task, accelerator=accelerator)
                overlaid.append(task.test[here])
                maps.append(attention_maps(trained, task, here, block, accelerator=accelerator))
    if not found:
        raise InputError(in_one_line(refused))
    predicted = Predicted(tuple(done), card.classes, torch.cat(found), tuple(refused), out)
    if out is not None:
        table = predictions([str(path) for path in done], card.classes, predicted.probabilities)
        write_atomically(out / "predictions.csv", table)
        written = "predictions.csv"
        if block is not None and maps:
            at = {path: place for place, path in enumerate(done)}
            drawn_of = [paths[index] for index in shown if paths[index] in at]
            best = [card.classes[int(predicted.probabilities[at[path]].argmax())] for path in drawn_of]
            titles = [f"{path.stem}: {name}" for path, name in zip(drawn_of, best, strict=True)]
            drawn = draw_overlays(torch.cat(overlaid), {"model": torch.cat(maps)}, block=block, titles=titles)
            write_atomically(out / "attention.png", drawn)
            written += ", attention.png"
        said = f"{len(done)} pictures predicted; written: {out}: {written}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    return predicted
