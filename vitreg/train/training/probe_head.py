"""What a run's own training pictures say before it: the linear probe's head, how classes are related."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

import vitreg
from vitreg.train.data.dataset import Task
from vitreg.train.models.start import Start
from vitreg.train.training.composition import Penalty
from vitreg.train.training.evaluation import BATCH_SIZE
from vitreg.train.training.guided_model import Whole
from vitreg.views import random_numbers


def fit_probe_head(
    model: nn.Module, task: Task, indices: Sequence[int], *, accelerator: Accelerator
) -> vitreg.LinearProbe:
    """Fit the model's head to its features of the training pictures `indices`, and return the probe.

    The pictures are seen as test pictures are, without chance, each once and in the order of `indices`; no
    other picture plays a part. The features are computed in the run's precision, as at the evaluation.
    Several processes compute the same, and all get the head of the first one.
    """
    model.to(accelerator.device)
    with accelerator.autocast():
        return vitreg.fit_head(model, _batches(task, indices, accelerator.device))


def related_source(
    target: Penalty | None, start: Start, task: Task, indices: Sequence[int], *, accelerator: Accelerator
) -> Whole | None:
    """Return the source with its own head, and how its classes relate to the task's, if `target` needs them.

    The pictures are seen as by `fit_probe_head`.
    """
    if not isinstance(target, vitreg.CoTuning):
        return None
    with random_numbers(0):  # those of the training stay as they are
        source = start.whole().to(accelerator.device)
    pictures = _batches(task, indices, accelerator.device)
    with accelerator.autocast():
        return Whole(source, vitreg.measure.class_relation(source, pictures, len(task.classes)))


def _batches(task: Task, indices: Sequence[int], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(indices), BATCH_SIZE):
        part = indices[start : start + BATCH_SIZE]
        pictures = torch.stack([task.train.plain(index) for index in part]).to(device)
        yield task.normalise(pictures), torch.tensor([task.train_labels[index] for index in part])


def probe_metrics(probe: vitreg.LinearProbe) -> dict[str, float | None]:
    """Return what a report keeps of a probe, from training pictures alone: top-1 in percent, weight decay.

    `held_out_top1` is that of pictures held out in turn, None where a class has a single one.
    """
    held_out = probe.fold_accuracy
    return {
        "held_out_top1": None if held_out is None else 100 * held_out,
        "train_top1": 100 * probe.train_accuracy,
        "weight_decay": probe.weight_decay,
    }
