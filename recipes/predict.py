"""Predict the classes of new pictures with a model that finetune.py stored.

    python recipes/predict.py holiday.jpg more_pictures --model result --out predicted

writes `predicted/predictions.csv`: path, predicted class, and its probability. Folders are searched to the
bottom. With --attention also attention.png: up to eight of the pictures, lit where the model looks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from engine.scripts.console import exit_code
from engine.scripts.options import Parser
from vitreg.errors import InputError
from vitreg.files import prepare_out, write_atomically
from vitreg.pictures.finding import find_pictures, listed_counts
from vitreg.train.attention_overlay import attention_maps, draw_overlays, object_block
from vitreg.train.basics.distributed import on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.data.photographs import in_one_line
from vitreg.train.models.stored import load_stored
from vitreg.train.predictions import evenly, new_pictures, predictions, probabilities
from vitreg.train.training.device import make_accelerator


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    options = Parser("predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = options.add_argument
    add("pictures", nargs="+", type=Path, metavar="PICTURES", help="picture files, or folders of them")
    add(
        "--model", type=Path, required=True, metavar="DIR", help="the --out of finetune.py, or its model file"
    )
    add("--out", type=Path, required=True, metavar="DIR", help="where results go")
    add("--attention", action="store_true", help="show where the model looks")
    add("--block", type=int, help="of --attention, from 0 (the last)")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add("--precision", choices=("no", "bf16"), default="no", help="automatic mixed precision")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Predict, write the results, and return the exit code."""

    def predict(console: Console) -> None:
        options = parser().parse_args(argv)
        model, card = load_stored(options.model)
        listed = find_pictures(options.pictures)
        paths = listed.pictures
        accelerator = make_accelerator(options.device, options.precision)
        prepare_out(options.out)
        shown = evenly(len(paths))
        found, seen, overlaid, maps, block = [], 0, [], [], 0
        done: list[Path] = []
        refused: list[str] = []
        with Progress(console) as progress, progress.stage("predicting") as update:
            left = f"; left out: {listed_counts(listed.left_out)}" if listed.left_out else ""
            progress.say(f"{len(paths)} pictures, {len(card.classes)} classes{left}")
            for task, read, wrong in new_pictures(paths, card):
                refused += wrong
                seen += len(read) + len(wrong)
                update(seen, len(paths))
                if task is None:
                    continue
                found.append(probabilities(model, task, accelerator=accelerator))
                places = {path: place for place, path in enumerate(read)}
                here = [places[paths[index]] for index in shown if paths[index] in places]
                done += read
                if options.attention and here:
                    block = options.block
                    if block is None:
                        block = object_block(model, task, accelerator=accelerator)
                    overlaid.append(task.test[here])
                    attention = attention_maps(model, task, here, block, accelerator=accelerator)
                    maps.append(attention)
        if not found:
            raise InputError(in_one_line(refused))
        table = predictions([str(path) for path in done], card.classes, torch.cat(found))
        write_atomically(options.out / "predictions.csv", table)
        written = "predictions.csv"
        if options.attention and maps:
            drawn = draw_overlays(torch.cat(overlaid), {"model": torch.cat(maps)}, block=block)
            write_atomically(options.out / "attention.png", drawn)
            written += ", attention.png"
        said = f"{len(done)} pictures predicted; written: {options.out}: {written}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
        if refused:
            raise InputError(f"{len(refused)} of {len(paths)} pictures left out: {in_one_line(refused)}")

    return exit_code(lambda console: on_main(lambda: predict(console)))


if __name__ == "__main__":
    sys.exit(main())
