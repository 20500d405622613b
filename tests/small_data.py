"""Pictures and indices that the tests write themselves."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

MODEL = "test_vit"  # timm's own tiny ViT for tests: width 64, depth 6, patches of 16
SIZE = 32


def write_picture(path: Path, *, seed: int, width: int = 48, height: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_index(root: Path, rows: list[list[str]], columns: list[str]) -> None:
    with open(root / "index.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
