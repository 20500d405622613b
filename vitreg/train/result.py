"""What a fine-tuning came to: in words, and as the files that it leaves behind."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import torch
from accelerate import Accelerator

from vitreg.files import write_atomically
from vitreg.train.choice import interval
from vitreg.train.finetuned import Finetuned, Tested
from vitreg.train.labelled_folder import Pictures
from vitreg.train.models.stored import MODEL_FILE, model_file, timm_config
from vitreg.train.page.html_report import html_report
from vitreg.train.page.probabilities import commonest_mistakes, confusion, reliability
from vitreg.train.runs.predictions import predictions

WRITTEN = (MODEL_FILE, "config.json", "predictions.csv", "report.html", "report.json")


def predictions_of(tested: Tested) -> str:
    """Return the name of the file with the predictions of a test set."""
    return f"predictions-{tested.test.name}.csv"


def summary(found: Finetuned, pictures: Pictures) -> list[str]:
    """Return both models' top-1, which is delivered and why, and its commonest mistakes, as lines of text."""
    task, report, probabilities = pictures.task, found.report, found.probabilities
    probe, tuned = found.probe.metrics["top1"], found.fine_tuned.metrics["top1"]
    both = f"linear probe {probe:.1f} · fine-tuned ({found.trial}) {tuned:.1f}: top-1 in % of "
    lines = [f"{both}{pictures.measured_on} ({len(task.test)})"]
    if found.choice is not None:
        lines.append(str(found.choice))
    if found.losses is not None:
        lines.append(found.losses)
    top1 = report.metrics["top1"]
    low, high = interval((probabilities.argmax(1) == torch.tensor(task.test_labels)).tolist())
    said = f"delivered, {found.kind}: top-1 {top1:.1f} % ({low:.1f} to {high:.1f}) on {pictures.measured_on}"
    lines.append(f"{said}; balanced accuracy {report.metrics['class_mean']:.1f} %")
    lines += map(str, found.tests)
    mistakes = commonest_mistakes(confusion(probabilities, task.test_labels), task.classes)
    return [*lines, *(f"  {mistake}" for mistake in mistakes)]


def write_result(found: Finetuned, pictures: Pictures, accelerator: Accelerator, block: int | None) -> None:
    """Write everything but the runs, each file whole, the report last."""
    task, out = pictures.task, found.out
    card = replace(found.card, run=found.report.configuration.folder)
    write_atomically(out / MODEL_FILE, model_file(found.model, card))
    write_atomically(out / "config.json", timm_config(found.card))
    table = predictions(task.test_names, task.classes, found.probabilities, task.test_labels)
    write_atomically(out / "predictions.csv", table)
    for one in found.tests:
        table = predictions(one.test.names, task.classes, one.probabilities, one.test.labels)
        write_atomically(out / predictions_of(one), table)
    for stale in set(out.glob("predictions-*.csv")) - {out / predictions_of(one) for one in found.tests}:
        stale.unlink()  # another model's
    write_atomically(out / "report.html", html_report(found, pictures, accelerator, block))
    story = {**asdict(found.report), **_story(found, pictures)}
    write_atomically(out / "report.json", json.dumps(story, indent=1) + "\n")


def _story(found: Finetuned, pictures: Pictures) -> dict[str, Any]:
    """Return what report.json says beside the delivered model's report: both models, choice, trials."""
    choice = found.choice
    return {
        "measured_on": pictures.measured_on,
        "num_measured": len(pictures.task.test),
        "delivered": "linear probe" if found.report is found.probe else "fine-tuned",
        "calibration_error": reliability(found.probabilities, pictures.task.test_labels).error,
        "linear_probe": found.probe.metrics,
        "fine_tuned": {**asdict(found.trial), **found.fine_tuned.metrics},
        "losses": found.losses,
        "tests": {one.test.name: one.figures for one in found.tests},
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
            for one in found.searched
        ],
    }
