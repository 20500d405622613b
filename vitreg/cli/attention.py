"""Draw where a model looks, over your pictures.

MODEL is a model of timm: NAME, NAME.TAG, local-dir:FOLDER or hf-hub:ORG/NAME. Its
pre-trained weights are fetched unless --weights or --random is given. Pictures are
resized, cropped and normalised as timm records for the model; the figure shows the
crop that the model sees."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm.data
import torch
from PIL import Image
from torch import Tensor, nn

from vitreg.cli.build import check_timm_name, need
from vitreg.cli.command import Command
from vitreg.cli.figure_file import check_figure_file, write_figure
from vitreg.cli.weights import PRETRAINED, RANDOM, Weights, in_words, load_timm, read_notes
from vitreg.description import Description, describe
from vitreg.errors import ArgumentError
from vitreg.pictures.reading import read_picture
from vitreg.types import Heads, Layers, Query

_EXAMPLE = """For example

  vitreg attention vit_small_patch16_224.dino dog.jpg cat.jpg -o overlay.png
  vitreg attention deit_tiny_patch16_224 dog.jpg --weights tuned.safetensors \\
      --source pretrained --layers all -o drift.pdf
"""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="name of the model, see above")
    add("images", nargs="+", type=Path, metavar="IMAGE", help="picture files")
    add("-o", "--out", type=Path, required=True, metavar="FILE", help="output figure, .png, .pdf or .svg")
    weights = parser.add_mutually_exclusive_group()
    add = weights.add_argument
    add("--weights", type=Path, metavar="FILE", help=".safetensors or torch file with the model's state dict")
    add("--random", action="store_true", help="use untrained weights, to try the command")
    add = parser.add_argument
    source = f"second checkpoint of the same model, drawn first, or {PRETRAINED}"
    add("--source", metavar="FILE", help=source)
    add("--size", type=_pixels, metavar="PIXELS", help="input size (default: as timm records)")
    layers = "blocks, from 0 or negative from the end: 11, 0,5,11, --layers=-2,-1 or all (default: -1)"
    add("--layers", type=_layers, metavar="BLOCKS", help=layers)
    add("--heads", choices=("mean", "each"), help="mean over the attention heads, or each (default: mean)")
    query = (
        "query of the attention: the class token's, the mean of the patches', or the attention pooling's "
        "(default: cls if there is a class token, else mean)"
    )
    add("--query", choices=("cls", "mean", "pool"), help=query)
    add("--rollout", action="store_true", help="attention through all blocks instead of in one")


def run(options: Namespace) -> int:
    """Draw the figure and write it; options and files are checked before a model is built."""
    if options.rollout and (options.layers is not None or options.heads is not None):
        raise ArgumentError(
            "--rollout goes through all blocks, with the mean of the heads: leave out --layers and --heads."
        )
    if options.rollout and options.query == "pool":
        raise ArgumentError("--rollout ends at the class token or at all patches: --query cls or mean.")
    if options.query == "pool" and options.layers is not None:
        raise ArgumentError(
            "--query pool reads the one attention pooling behind the blocks: leave out --layers."
        )
    check_figure_file(options.out, options.images)
    need("matplotlib", what="`vitreg attention`")
    check_timm_name(options.model)
    pictures = [read_picture(path) for path in options.images]

    weights: Weights = RANDOM if options.random else options.weights or PRETRAINED
    asked = {"source": _source(options.source)} if options.source is not None else {}
    asked["model"] = weights
    if asked.get("source") == weights:
        raise ArgumentError(
            f"The model and its source are the same weights, {in_words(weights)}. Give --source others."
        )
    size = options.size
    if size is None and isinstance(weights, Path):
        size = read_notes(weights).get("size")
    models = {title: load_timm(options.model, which, size).eval() for title, which in asked.items()}
    model = models["model"]
    query = options.query or _query_of(describe(model))
    shown, images = as_the_model_sees(pictures, model, size)
    _check_patches(images, model)
    _write(options, models if len(models) > 1 else model, images, shown, query)
    count = "1 picture" if len(pictures) == 1 else f"{len(pictures)} pictures"
    pixels = f"{images.shape[-1]}×{images.shape[-2]} pixels"
    of = "; ".join(f"{title}: {in_words(which)}" for title, which in asked.items())
    print(f"{options.out}: {count} of {pixels}; {options.model}, {of}")
    return 0


def _write(
    options: Namespace,
    models: nn.Module | dict[str, nn.Module],
    images: torch.Tensor,
    shown: torch.Tensor,
    query: Query,
) -> None:
    import vitreg.plot

    titles = [path.stem for path in options.images]
    if options.rollout:
        figure = vitreg.plot.rollout(models, images, pictures=shown, titles=titles, query=query)
    else:
        layers: Layers = -1 if options.layers is None else options.layers
        heads: Heads = options.heads or "mean"
        figure = vitreg.plot.attention(
            models, images, pictures=shown, titles=titles, layers=layers, heads=heads, query=query
        )
    write_figure(figure, options.out)


def _check_patches(images: torch.Tensor, model: nn.Module) -> None:
    """Raise `ArgumentError` if a part of the picture is in no patch: it would be shown and not be seen."""
    side: Any = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    rows, columns = side if isinstance(side, tuple) else (side, side)
    height, width = images.shape[-2:]
    if height % rows or width % columns:
        whole = max(1, round(height / rows)) * rows
        raise ArgumentError(
            f"Expected a picture of whole patches of {columns}×{rows} pixels, got {width}×{height}. "
            f"Choose another --size, such as {whole}."
        )


def _source(text: str) -> Weights:
    return PRETRAINED if text == PRETRAINED else Path(text)


def _query_of(found: Description) -> Query:
    """Return the class token's query if its attention can be read in the last block, else the patches'."""
    return "cls" if found.num_blocks - 1 in found.queries["cls"] or not found.queries["mean"] else "mean"


def _layers(text: str) -> Layers:
    if text == "all":
        return "all"
    try:
        indices = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected block numbers such as -1 or 0,5,11, or all, got {text!r}"
        ) from None
    return indices if len(indices) > 1 else indices[0]


def _pixels(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of pixels, got {text!r}")
    return int(text)


def as_the_model_sees(
    pictures: Sequence[Image.Image], model: nn.Module, size: int | None
) -> tuple[Tensor, Tensor]:
    """Return the crops to show, uint8 [b, 3, height, width], and the same normalised for the model.

    Size, crop, mean and deviation are those that timm notes for the model; `size`, in pixels, replaces the
    first.

    Raises:
        ArgumentError: the model takes no colour pictures.
    """
    config = timm.data.resolve_model_data_config(model, args={"img_size": size})
    if config["input_size"][0] != 3:
        raise ArgumentError(f"Expected a model of pictures with 3 channels, found {config['input_size'][0]}.")
    crop = timm.data.create_transform(**config, is_training=False, normalize=False)
    shown = torch.stack([crop(picture) for picture in pictures])
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    return shown, (shown / 255 - mean) / std


COMMAND = Command(__doc__, _EXAMPLE, add_options, run)
