"""The files that `finetune` leaves behind: the model, its predictions, pictures and the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor, nn

from vitreg.files import write_atomically
from vitreg.train.attention_overlay import attention_maps, draw_overlays, object_block
from vitreg.train.choice import kind
from vitreg.train.confusion_matrix import confusion, draw_confusion
from vitreg.train.labelled_folder import Pictures
from vitreg.train.models.stored import MODEL_FILE, model_file, timm_config
from vitreg.train.predictions import evenly, predictions
from vitreg.train.runs.report import Report

WRITTEN = (MODEL_FILE, "config.json", "predictions.csv", "confusion.png", "attention.png", "report.json")


def write_result(
    model: nn.Module,
    shares: Tensor,
    report: Report,
    searched: Sequence[Report],
    pictures: Pictures,
    out: Path,
    accelerator: Accelerator,
    block: int | None,
) -> None:
    """Write everything but the runs, each file whole, the report last."""
    task = pictures.task
    card = replace(pictures.card, run=report.configuration.folder)
    write_atomically(out / MODEL_FILE, model_file(model, card))
    write_atomically(out / "config.json", timm_config(pictures.card))
    table = predictions(pictures.names, task.classes, shares, task.test_labels)
    write_atomically(out / "predictions.csv", table)
    title = f"{kind(report)}: {report.metrics['top1']:.1f} % of {len(task.test)} right"
    counts = confusion(shares, task.test_labels)
    write_atomically(out / "confusion.png", draw_confusion(counts, task.classes, title))
    source = pictures.start.create(len(task.classes), 0.0)
    if block is None:
        block = object_block(source, task, accelerator=accelerator)
    indices = evenly(len(task.test))
    maps = {
        name: attention_maps(looking, task, indices, block, accelerator=accelerator)
        for name, looking in {"before training": source, kind(report): model}.items()
    }
    write_atomically(out / "attention.png", draw_overlays(task.test[indices], maps, block=block))
    tried = [{**asdict(r.configuration), "top1": r.metrics["top1"]} for r in searched]
    search = [{key: entry[key] for key in ("method", "lam", "top1")} for entry in tried]
    story = {**asdict(report), "measured_on": pictures.measured_on, "num_measured": len(task.test)}
    write_atomically(out / "report.json", json.dumps({**story, "search": search}, indent=1) + "\n")
