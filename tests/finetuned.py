"""What the tests of fine-tuning share: a short command line, and what it writes."""

from __future__ import annotations

import csv
from pathlib import Path

from small_data import MODEL, SIZE
from vitreg.cli import main

WRITTEN = {
    "model.safetensors",
    "config.json",
    "predictions.csv",
    "report.html",
    "report.json",
}


LEARNT = ("--lr", "1e-3", "--seed", "3")
"""What makes a short training differ from its start."""


def arguments(data: Path, weights: Path, out: Path) -> list[str]:
    given = ["--data", data, "--weights", weights, "--model", MODEL, "--size", SIZE, "--out", out]
    return [str(word) for word in [*given, "--steps", 2, "--batch-size", 4, "--device", "cpu"]]


def run(*words: str | Path) -> int:
    return main(["finetune", *map(str, words)])


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in WRITTEN}
