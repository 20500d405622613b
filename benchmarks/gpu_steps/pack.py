"""The pictures that the runs use, small enough to be carried to a GPU together with the weights."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from gpu_steps.options import Options
from gpu_steps.rows import SEEDS, SETS
from vitreg.train.data.folder import read_folder
from vitreg.train.data.samples import Folder, Sample
from vitreg.train.data.subset import Share, stratified_indices

LIMIT = 50 * 2**20
"""Bytes of pictures, indices and weights together."""

SHORT_SIDE = 224
QUALITIES = range(20, 96, 5)
"""JPEG's; the best at which everything fits is taken."""

WEIGHTS = "weights.safetensors"
COLUMNS = ("path", "label", "class", "split", "trimap")
ROW_BYTES = 120
"""Of a picture's line in the index, at most."""

ORIENTATION = 0x0112
"""EXIF's tag."""


class Item(NamedTuple):
    """A picture to be packed; `trimap` is a PNG, or empty."""

    data: str
    split: str
    sample: Sample
    picture: Image.Image
    trimap: bytes


def pack(options: Options) -> None:
    """Write `NAME/index.csv` with `NAME/images/` of each data set, and the weights, into `options.pack`.

    Raises:
        SystemExit: There is none of the data sets, the folder is not empty, or nothing fits.
    """
    assert options.pack is not None
    assert options.data is not None
    assert options.weights is not None
    places = {name: options.data / name for name in SETS if (options.data / name).is_dir()}
    if not places:
        raise SystemExit(f"expected one of {', '.join(SETS)} in {options.data}, found none")
    if options.pack.is_dir() and any(options.pack.iterdir()):
        raise SystemExit(f"expected an empty folder for --pack, found files in {options.pack}")
    folders = {name: read_folder(place, name=name) for name, place in places.items()}
    items = [item for name, folder in folders.items() for item in used_pictures(name, folder)]
    room = LIMIT - options.weights.stat().st_size - sum(len(item.trimap) + ROW_BYTES for item in items)
    quality, encoded = _encoded(items, room)
    for name, folder in folders.items():
        own = [(item, content) for item, content in zip(items, encoded, strict=True) if item.data == name]
        _write(options.pack / name, folder.classes, own)
    shutil.copyfile(options.weights, options.pack / WEIGHTS)
    total = sum(file.stat().st_size for file in options.pack.rglob("*") if file.is_file())
    print(f"{options.pack}: {len(items)} pictures at JPEG quality {quality}, {total / 2**20:.1f} MiB in all")


def _encoded(items: Sequence[Item], room: int) -> tuple[int, list[bytes]]:
    """Return the highest quality at which the pictures take at most `room` bytes, and the pictures so."""

    def at(quality: int) -> list[bytes]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(partial(_jpeg, quality=quality), (item.picture for item in items)))

    found: tuple[int, list[bytes]] | None = None
    low, high = 0, len(QUALITIES)
    while low < high:
        middle = (low + high) // 2
        encoded = at(QUALITIES[middle])
        if sum(map(len, encoded)) <= room:
            found, low = (QUALITIES[middle], encoded), middle + 1
        else:
            high = middle
    if found is None:
        raise SystemExit(f"{len(items)} pictures take more than {LIMIT / 2**20:.0f} MiB at any quality")
    return found


def used_pictures(name: str, folder: Folder) -> Iterator[Item]:
    """Yield the training pictures that any seed draws, and all test pictures.

    From what is packed the seeds draw anew, other pictures than from the whole data set.
    """
    shots, labels = SETS[name], [sample.label for sample in folder.train]
    share = Share(rate=1.0) if shots is None else Share(shots=shots)
    drawn = [stratified_indices(labels, share, seed=seed, classes=folder.classes) for seed in SEEDS]
    for index in sorted({index for of in drawn for index in of}):
        sample = folder.train[index]
        yield Item(name, "train", sample, _small(_upright(sample.path), Image.Resampling.BICUBIC), b"")
    for sample in folder.test:
        # The evaluation looks at the middle square alone: the rest need not be carried.
        picture = _small(_middle(_upright(sample.path)), Image.Resampling.BICUBIC)
        trimap = b""
        if sample.trimap is not None:
            trimap = _png(_small(_middle(Image.open(sample.trimap)), Image.Resampling.NEAREST))
        yield Item(name, "test", sample, picture, trimap)


def _upright(path: Path) -> Image.Image:
    picture = Image.open(path)
    if picture.getexif().get(ORIENTATION, 1) != 1:
        raise SystemExit(f"{path} is turned by its EXIF orientation, which packing would lose: turn it first")
    return picture.convert("RGB")


def _middle(picture: Image.Image) -> Image.Image:
    """Return the square in the middle."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _small(picture: Image.Image, how: Image.Resampling) -> Image.Image:
    """Return a picture with a short side of at most `SHORT_SIDE`."""
    scale = SHORT_SIDE / min(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(SHORT_SIDE, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), how)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=quality, optimize=True, progressive=True)
    return content.getvalue()


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return content.getvalue()


def _write(root: Path, classes: Sequence[str], items: Iterable[tuple[Item, bytes]]) -> None:
    """Write pictures, trimaps and the index of a data set."""
    rows = []
    for number, (item, content) in enumerate(items):
        name = f"{item.split}/{item.sample.label:03}_{number:05}"
        trimap = f"trimaps/{name}.png" if item.trimap else ""
        for path, what in ((f"images/{name}.jpg", content), (trimap, item.trimap)):
            if what:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(what)
        label = item.sample.label
        rows.append([f"images/{name}.jpg", label, classes[label], item.split, trimap])
    with open(root / "index.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
