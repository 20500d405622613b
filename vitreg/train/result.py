"""What a fine-tuning came to: in words, and as the files that it leaves behind."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from vitreg.files import write_atomically
from vitreg.train.attention_overlay import attention_maps, draw_overlays, object_block
from vitreg.train.choice import Choice, Standing
from vitreg.train.confusion_matrix import commonest_mistakes, confusion, draw_confusion
from vitreg.train.labelled_folder import Pictures
from vitreg.train.models.stored import MODEL_FILE, model_file, timm_config
from vitreg.train.predictions import evenly, predictions
from vitreg.train.runs.report import Report
from vitreg.train.trials import PROBE, Trial

WRITTEN = (MODEL_FILE, "config.json", "predictions.csv", "confusion.png", "attention.png", "report.json")


@dataclass(frozen=True)
class Outcome:
    """What was trained and delivered.

    Attributes:
        trial: how the fine-tuned model was trained.
        report: of the delivered model.
        probe: the linear probe's report.
        fine_tuned: the fine-tuned model's.
        choice: why the one or the other is delivered, or None where it was not chosen.
        searched: how the trials of a search did, the best first.
        losses: what the fine-tuned model's losses say, in a sentence, or None where nothing was trained.
    """

    trial: Trial
    report: Report
    probe: Report
    fine_tuned: Report
    choice: Choice | None
    searched: Sequence[Standing]
    losses: str | None

    @property
    def kind(self) -> str:
        """The delivered model, in words."""
        return str(PROBE) if self.report is self.probe else f"fine-tuned: {self.trial}"


def summary(outcome: Outcome, shares: Tensor, pictures: Pictures) -> list[str]:
    """Return both models' top-1, which is delivered and why, and its commonest mistakes, as lines of text."""
    task, report = pictures.task, outcome.report
    probe, tuned = outcome.probe.metrics["top1"], outcome.fine_tuned.metrics["top1"]
    both = f"linear probe {probe:.1f} · fine-tuned ({outcome.trial}) {tuned:.1f}: top-1 in % of "
    lines = [f"{both}{pictures.measured_on} ({len(task.test)})"]
    if outcome.choice is not None:
        lines.append(str(outcome.choice))
    if outcome.losses is not None:
        lines.append(outcome.losses)
    top1 = report.metrics["top1"]
    error = math.sqrt(top1 * (100 - top1) / len(task.test))
    said = f"delivered, {outcome.kind}: top-1 {top1:.1f} % ± {error:.1f} on {pictures.measured_on}"
    lines.append(f"{said}; balanced accuracy {report.metrics['class_mean']:.1f} %")
    mistakes = commonest_mistakes(confusion(shares, task.test_labels), task.classes)
    return [*lines, *(f"  {mistake}" for mistake in mistakes)]


def write_result(
    model: nn.Module,
    shares: Tensor,
    outcome: Outcome,
    pictures: Pictures,
    out: Path,
    accelerator: Accelerator,
    block: int | None,
) -> None:
    """Write everything but the runs, each file whole, the report last."""
    task, report = pictures.task, outcome.report
    card = replace(pictures.card, run=report.configuration.folder)
    write_atomically(out / MODEL_FILE, model_file(model, card))
    write_atomically(out / "config.json", timm_config(pictures.card))
    table = predictions(pictures.names, task.classes, shares, task.test_labels)
    write_atomically(out / "predictions.csv", table)
    title = f"{outcome.kind}: {report.metrics['top1']:.1f} % of {len(task.test)} right"
    counts = confusion(shares, task.test_labels)
    write_atomically(out / "confusion.png", draw_confusion(counts, task.classes, title))
    source = pictures.start.create(len(task.classes), 0.0)
    if block is None:
        block = object_block(source, task, accelerator=accelerator)
    indices = evenly(len(task.test))
    maps = {
        name: attention_maps(looking, task, indices, block, accelerator=accelerator)
        for name, looking in {"before training": source, outcome.kind: model}.items()
    }
    write_atomically(out / "attention.png", draw_overlays(task.test[indices], maps, block=block))
    story = {**asdict(report), **_story(outcome, pictures)}
    write_atomically(out / "report.json", json.dumps(story, indent=1) + "\n")


def _story(outcome: Outcome, pictures: Pictures) -> dict[str, Any]:
    """Return what report.json says beside the delivered model's report: both models, choice, trials."""
    choice = outcome.choice
    return {
        "measured_on": pictures.measured_on,
        "num_measured": len(pictures.task.test),
        "delivered": "linear probe" if outcome.report is outcome.probe else "fine-tuned",
        "linear_probe": outcome.probe.metrics,
        "fine_tuned": {**asdict(outcome.trial), **outcome.fine_tuned.metrics},
        "losses": outcome.losses,
        "choice": choice
        and {
            "num_folds": choice.num_folds,
            "num_pictures": len(choice.probe.right),
            "linear_probe_top1": choice.probe.top1,
            "fine_tuned_top1": choice.fine_tuned.top1,
            **asdict(choice.difference),
        },
        "search": [
            {**asdict(one.trial), "num_pictures": len(one.right), "top1": one.top1, "loss": one.loss}
            for one in outcome.searched
        ],
    }
