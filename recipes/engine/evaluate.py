"""What is measured on the test pictures: top-1, and attention where the objects are known."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

import vitreg
from engine.attention import best_head_jaccard, object_share, patch_coverage
from engine.task import Task

BATCH_SIZE = 100


@torch.no_grad()
def evaluate(
    model: nn.Module,
    task: Task,
    *,
    accelerator: Accelerator,
    has_head: bool = True,
    on_batch: Callable[[int], None] = lambda pictures: None,
) -> dict[str, Any]:
    """Return the metrics of `model` on the task's test pictures.

    `top1` in percent (left out without a trained head); `object_share` and `jaccard`, one number in [0, 1]
    for each block, where the task has masks. A picture without any of its object inside the crop is not
    counted in these.
    """
    device = accelerator.device
    model.to(device).eval()
    accuracy = MulticlassAccuracy(len(task.classes), average="micro").to(device)
    labels, has_masks = torch.tensor(task.test_labels), task.test_masks is not None
    shares: list[MeanMetric] = []
    indices: list[MeanMetric] = []
    for start in range(0, len(labels), BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        pictures = task.normalised(task.test[part].to(device))
        with ExitStack() as reading, accelerator.autocast():
            trace = reading.enter_context(vitreg.trace(model, "attn_probs")) if has_masks else {}
            logits = model(pictures)
        accuracy.update(logits.float(), labels[part].to(device))
        if task.test_masks is not None:
            rows = list(trace["attn_probs"])
            coverage = patch_coverage(task.test_masks[part].to(device), rows[0].shape[-1])
            is_seen = coverage.sum(1) > 0
            shares = shares or [MeanMetric().to(device) for _ in rows]
            indices = indices or [MeanMetric().to(device) for _ in rows]
            if is_seen.any():
                for block, row in enumerate(rows):
                    shares[block].update(object_share(row[is_seen], coverage[is_seen]))
                    indices[block].update(best_head_jaccard(row[is_seen], coverage[is_seen]))
        on_batch(len(pictures))
    metrics: dict[str, Any] = {"top1": 100 * float(accuracy.compute())} if has_head else {}
    if shares:
        metrics["object_share"] = [float(metric.compute()) for metric in shares]
        metrics["jaccard"] = [float(metric.compute()) for metric in indices]
    return metrics
