"""Training pictures that are held out in turn, so that a choice needs no other pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch

from vitreg.functional import stratified_folds
from vitreg.train.data.copies import copies_of
from vitreg.train.data.dataset import Task


def num_possible_folds(task: Task, wanted: int) -> int:
    """Return how many folds there can be, at most `wanted`: 0 where a class has a single picture."""
    copies = copies_of(task.train_digests, range(len(task.train_labels)))
    counts = Counter(label for index, label in enumerate(task.train_labels) if index not in copies)
    smallest = min(counts[label] for label in range(len(task.classes)))
    return min(wanted, smallest) if smallest > 1 else 0


def fold_tasks(task: Task, num_folds: int) -> list[Task]:
    """Return a task for each fold: measured on the fold's pictures, trained on the list of all others.

    Each training picture is in one fold, and the classes have equal parts in all of them. Copies of a picture
    are in its fold, so that nothing is measured on what was trained on. The list is the only one of the task.
    """
    indices = range(len(task.train_labels))
    copies = copies_of(task.train_digests, indices)
    originals = [index for index in indices if index not in copies]
    folds = stratified_folds(torch.tensor([task.train_labels[index] for index in originals]), num_folds)
    fold_of = dict(zip(originals, folds.tolist(), strict=True))
    by_digest = {task.train_digests[index]: fold for index, fold in fold_of.items()} if copies else {}
    fold_of |= {index: by_digest[task.train_digests[index]] for index in copies}
    tasks = []
    for fold in range(num_folds):
        kept = tuple(index for index in indices if fold_of[index] != fold)
        out = [index for index in indices if fold_of[index] == fold]
        tasks.append(replace(task.held_out(out), lists={f"fold{fold + 1}of{num_folds}": kept}))
    return tasks
