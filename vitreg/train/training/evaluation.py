"""What is measured on the test pictures: top-1, and attention where the objects are known."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

import vitreg
from vitreg.train.basics.distributed import gather, rank, world_size
from vitreg.train.data.dataset import Task
from vitreg.train.training.attention_metrics import best_head_jaccard, object_share, patch_coverage
from vitreg.train.training.state import DivergenceError, Entry

BATCH_SIZE = 100


@torch.no_grad()
def evaluate(
    model: nn.Module,
    task: Task,
    *,
    accelerator: Accelerator,
    has_head: bool = True,
    on_batch: Callable[[int], None] = lambda pictures: None,
    on_logits: Callable[[Tensor], None] = lambda logits: None,
) -> dict[str, Any]:
    """Return the metrics of `model` on the task's test pictures.

    With a trained head `top1` in percent, `per_class` in percent of each class by its name, and their mean
    `class_mean`, and `loss`, the mean cross-entropy. Where the task has masks `object_share` and `jaccard`,
    one number in [0, 1] for each block. A picture without any of its object inside the crop is not counted in
    these.

    Several processes share the pictures, and all return the metrics of all pictures. `on_logits` is told the
    logits [b, classes] of each batch, in float32 on the CPU: in each process those of its own pictures, which
    follow in their order, those of the first process first.
    """
    device, has_masks = accelerator.device, task.test_masks is not None
    model.to(device).eval()
    synchronised = {"sync_on_compute": world_size() > 1}
    right, seen = (torch.zeros(len(task.classes), dtype=torch.long) for _ in range(2))
    depth = vitreg.describe(model).num_blocks if has_masks else 0
    shares, indices = ([MeanMetric(**synchronised).to(device) for _ in range(depth)] for _ in range(2))
    labels = torch.tensor(task.test_labels)

    is_finite, loss = True, 0.0
    own = range(len(labels) * rank() // world_size(), len(labels) * (rank() + 1) // world_size())
    for start in range(own.start, own.stop, BATCH_SIZE):
        part = slice(start, min(start + BATCH_SIZE, own.stop))
        pictures = task.normalise(task.test[part].to(device))
        with ExitStack() as reading, accelerator.autocast():
            trace = reading.enter_context(vitreg.trace(model, "attn_probs")) if has_masks else {}
            logits = model(pictures)
        is_finite = is_finite and bool(torch.isfinite(logits).all())
        if has_head:
            loss += float(F.cross_entropy(logits.float(), labels[part].to(device), reduction="sum"))
        is_right = logits.float().argmax(1).cpu() == labels[part]
        right += torch.bincount(labels[part][is_right], minlength=len(right))
        seen += torch.bincount(labels[part], minlength=len(seen))
        if task.test_masks is not None:
            rows = list(trace["attn_probs"])
            coverage = patch_coverage(task.test_masks[part].to(device), rows[0].shape[-1])
            is_seen = coverage.sum(1) > 0
            if is_seen.any():
                for row, share, index in zip(rows, shares, indices, strict=True):
                    share.update(object_share(row[is_seen], coverage[is_seen]))
                    index.update(best_head_jaccard(row[is_seen], coverage[is_seen]))
        on_logits(logits.float().cpu())
        on_batch(len(pictures) * world_size())
    metrics: dict[str, Any] = {}
    if has_head:
        if not is_finite:
            raise DivergenceError(
                "expected numbers from the model, found values that are not finite; try a smaller --lr or "
                "--lam, or --precision no"
            )
        top1, each = rates(*(torch.stack(gather(counts)).sum(0) for counts in (right, seen)))
        per_class = [100 * value for value in each]
        metrics = {"top1": 100 * top1, "class_mean": fmean(per_class)}
        metrics["loss"] = sum(gather(loss)) / len(labels)
        metrics["per_class"] = dict(zip(task.classes, per_class, strict=True))
    if shares:
        metrics["object_share"] = [float(metric.compute()) for metric in shares]
        metrics["jaccard"] = [float(metric.compute()) for metric in indices]
    return metrics


def rates(right: Tensor, seen: Tensor) -> tuple[float, list[float]]:
    """Return the share of the pictures that are right, and that of each class, from counts by class [n].

    A class without pictures has 0. Counting by class takes no more memory than the classes.
    """
    each = right.float() / seen.clamp(min=1).float()
    return float(right.sum().float() / seen.sum().float()), each.tolist()


def as_entry(metrics: dict[str, Any]) -> Entry:
    """Return top-1 and the attention figures, one a block, under names of their own."""
    entry = {"top1": metrics["top1"]}
    for name in ("object_share", "jaccard"):
        entry |= {f"{name}/{block}": value for block, value in enumerate(metrics.get(name, ()))}
    return entry
