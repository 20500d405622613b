"""What is measured on the test pictures: top-1, and attention where the objects are known."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

import vitreg
from vitreg.train.basics.distributed import count, rank
from vitreg.train.data.dataset import Task
from vitreg.train.training.attention_metrics import best_head_jaccard, object_share, patch_coverage

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

    `top1` in percent, `per_class` in percent of each class by its name, and their mean `class_mean` (left
    out without a trained head); `object_share` and `jaccard`, one number in [0, 1] for each block, where the
    task has masks. A picture without any of its object inside the crop is not counted in these.

    Several processes share the pictures, and all return the metrics of all pictures.
    """
    device, has_masks = accelerator.device, task.test_masks is not None
    model.to(device).eval()
    synchronised = {"sync_on_compute": count() > 1}
    micro, each = (
        MulticlassAccuracy(len(task.classes), average=a, **synchronised).to(device) for a in ("micro", "none")
    )
    depth = vitreg.describe(model).num_blocks if has_masks else 0
    shares, indices = ([MeanMetric(**synchronised).to(device) for _ in range(depth)] for _ in range(2))
    labels = torch.tensor(task.test_labels)

    own = range(len(labels) * rank() // count(), len(labels) * (rank() + 1) // count())
    for start in range(own.start, own.stop, BATCH_SIZE):
        part = slice(start, min(start + BATCH_SIZE, own.stop))
        pictures = task.normalised(task.test[part].to(device))
        with ExitStack() as reading, accelerator.autocast():
            trace = reading.enter_context(vitreg.trace(model, "attn_probs")) if has_masks else {}
            logits = model(pictures)
        for accuracy in (micro, each):
            accuracy.update(logits.float(), labels[part].to(device))
        if task.test_masks is not None:
            rows = list(trace["attn_probs"])
            coverage = patch_coverage(task.test_masks[part].to(device), rows[0].shape[-1])
            is_seen = coverage.sum(1) > 0
            if is_seen.any():
                for row, share, index in zip(rows, shares, indices, strict=True):
                    share.update(object_share(row[is_seen], coverage[is_seen]))
                    index.update(best_head_jaccard(row[is_seen], coverage[is_seen]))
        on_batch(len(pictures) * count())
    metrics: dict[str, Any] = {}
    if has_head:
        per_class = [100 * value for value in each.compute().tolist()]
        metrics = {"top1": 100 * float(micro.compute()), "class_mean": fmean(per_class)}
        metrics["per_class"] = dict(zip(task.classes, per_class, strict=True))
    if shares:
        metrics["object_share"] = [float(metric.compute()) for metric in shares]
        metrics["jaccard"] = [float(metric.compute()) for metric in indices]
    return metrics
