"""A figure's file: checked before the work, and written whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vitreg.errors import ArgumentError
from vitreg.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")


def check_figure_file(path: Path, inputs: Iterable[Path]) -> None:
    """Raise `ArgumentError` unless a figure can be written to `path`, which is none of `inputs`."""
    if path.suffix.lower() not in FORMATS:
        raise ArgumentError(f"Expected a figure that ends in {', '.join(FORMATS)}, got {path}.")
    if os.path.isdir(path):
        raise ArgumentError(f"Expected a file for the figure, found the folder {path}.")
    if not os.path.isdir(path.parent):
        raise ArgumentError(f"There is no folder {path.parent} for the figure {path.name}. Make it first.")
    if not os.access(path.parent, os.W_OK):
        raise ArgumentError(
            f"The folder {path.parent} cannot be written to. Choose another place for {path.name}."
        )
    if any(os.path.exists(path) and os.path.exists(given) and path.samefile(given) for given in inputs):
        raise ArgumentError(f"The figure would replace the picture {path}. Give it another name.")


def write_figure(figure: Figure, path: Path) -> None:
    """Write the figure in the format that its ending names, through a temporary file beside it.

    Raises:
        ArgumentError: the file cannot be written; what was there before is still there.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:].lower())
    try:
        write_atomically(path, drawn.getvalue())
    except OSError as error:
        raise ArgumentError(f"Cannot write the figure {path}: {error.strerror}.") from error
