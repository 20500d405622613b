"""Picture files in folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from vitreg.errors import InputError


def find_pictures(places: Iterable[Path]) -> list[Path]:
    """Return each picture once: those given, and those in the folders given and below, sorted.

    Raises:
        InputError: A place does not exist or cannot be listed, or a folder holds no picture.
    """
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise InputError(f"there is no picture or folder {place}")
        if place.is_dir():
            inside = sorted(_walk(place))
            if not inside:
                raise InputError(f"no picture in {place}; looked for {', '.join(IMG_EXTENSIONS)}")
            found += inside
        else:
            found.append(place)
    return list(dict.fromkeys(found))


def _walk(folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise InputError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    for root, _, files in os.walk(folder, onerror=stop):
        yield from (Path(root, file) for file in files if file.lower().endswith(IMG_EXTENSIONS))
