"""The part of each class that a run may train on: the same for every method at one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitreg.errors import InputError
from vitreg.train.data.dataset import Task
from vitreg.train.data.samples import copies_of
from vitreg.wording import listed


@dataclass(frozen=True)
class Share:
    """How much is trained on.

    One of a share `rate` of each class in (0, 1], a number `shots` of pictures of each class, or the list of
    files that the task knows by the name `files`.
    """

    rate: float | None = None
    shots: int | None = None
    files: str | None = None

    def __str__(self) -> str:
        if self.files is not None:
            return self.files
        if self.shots is not None:
            return f"{self.shots} per class"
        return f"{100 * (self.rate or 0):g} %"

    @property
    def slug(self) -> str:
        """The share in the name of a run's folder."""
        if self.files is not None:
            return self.files
        return f"shots{self.shots}" if self.shots is not None else f"rate{100 * (self.rate or 0):g}"

    def count(self, available: int) -> int:
        """Return how many of `available` pictures of a class are taken."""
        return self.shots if self.shots is not None else round((self.rate or 0) * available)


def subset(task: Task, share: Share, *, seed: int) -> list[int]:
    """Return the sorted indices of the training pictures that `share` takes.

    Raises:
        InputError: As `stratified`, or the task has no such list of files, or it leaves a class empty.
    """
    if share.files is None:
        return stratified_indices(task.train_labels, share, seed=seed, classes=task.classes)
    if share.files not in task.lists:
        raise InputError(f"{task.name} has no list {share.files} (lists: {listed(task.lists) or 'none'})")
    chosen = sorted(task.lists[share.files])
    found = {task.train_labels[index] for index in chosen}
    if empty := [name for label, name in enumerate(task.classes) if label not in found]:
        raise InputError(f"the list of {task.name} names no picture of class {listed(empty)}; add some")
    return chosen


def trained_and_held_out(task: Task, share: Share, rate: float, *, seed: int) -> tuple[list[int], list[int]]:
    """Return what `share` takes of the task but for a share `rate` of each class, and that; nothing for 0.

    Raises:
        InputError: As `subset` and `split`.
    """
    taken, digests = subset(task, share, seed=seed), task.train_digests
    if not rate:
        return taken, []
    return split(taken, task.train_labels, rate, seed=seed, classes=task.classes, digests=digests)


def stratified_indices(
    labels: Sequence[int], share: Share, *, seed: int, classes: Sequence[str]
) -> list[int]:
    """Return the sorted indices of a random share of each class.

    Each class is shuffled by its own generator, so a smaller share is part of a larger one at the same seed.

    Raises:
        InputError: A class would be left empty, or has fewer pictures than `shots`.
    """
    chosen: list[int] = []
    known = np.asarray(labels)
    for label, name in enumerate(classes):
        members = np.flatnonzero(known == label).tolist()
        count = share.count(len(members))
        if count < 1:
            raise InputError(
                f"{share} leaves class {name} empty: it has {listed([str(len(members))])} pictures"
            )
        if count > len(members):
            raise InputError(f"{share} is more than the {len(members)} training pictures of class {name}")
        order = np.random.default_rng([seed, label]).permutation(len(members))
        chosen += [members[position] for position in order[:count]]
    return sorted(chosen)


def split(
    indices: Sequence[int],
    labels: Sequence[int],
    rate: float,
    *,
    seed: int,
    classes: Sequence[str],
    digests: Sequence[str] = (),
) -> tuple[list[int], list[int]]:
    """Return `indices` parted at random into those to train on and those held out, both sorted.

    Of each class the share `rate` is held out: at least one picture, and never all. Where `digests` say that
    pictures are copies of each other, one of them is parted and the others stay in training with it, or are
    in neither part.

    Raises:
        InputError: A class has only one picture.
    """
    out: set[int] = set()
    copies = copies_of(digests, indices)
    single = np.array([index for index in indices if index not in copies], dtype=int)
    own = np.asarray(labels)[single]
    for label, name in enumerate(classes):
        members = single[own == label].tolist()
        if len(members) < 2:
            raise InputError(
                f"class {name} has a single picture to train on: none can be held out to choose or measure "
                "by; add more, give `vitreg finetune` a test/, or a table --lam METHOD=λ or --select none"
            )
        count = min(max(1, round(rate * len(members))), len(members) - 1)
        order = np.random.default_rng([seed, label, 1]).permutation(len(members))
        out |= {members[position] for position in order[:count]}
    held_out = {digests[index] for index in out} if digests else set()
    kept = [index for index in indices if index not in out and not (digests and digests[index] in held_out)]
    return kept, sorted(out)
