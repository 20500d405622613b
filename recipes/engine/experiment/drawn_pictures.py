"""The demo's pictures for one fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.demo import supervised as demo
from engine.experiment.sources import drawn_sources
from vitreg.train.basics.progress import Progress
from vitreg.train.finetune import Pictures
from vitreg.train.models.stored import Card


def drawn_pictures(out: Path, progress: Progress) -> Pictures:
    """Return the demo's pictures, and its source, which timm can build too."""
    task, (start,) = drawn_sources(out, ("",), progress)
    names = tuple(f"drawn/{index}" for index in range(len(task.test)))
    architecture: dict[str, Any] = dict(demo.ARCHITECTURE)
    card = Card("vit_tiny_patch16_224", architecture, task.size, task.mean, task.std, task.classes)
    return Pictures(task, names, "the drawn test pictures", start, card)
