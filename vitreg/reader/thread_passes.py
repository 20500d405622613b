"""The passes that count, for each thread and each task of asyncio apart."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, TypeAlias

import torch

from vitreg.errors import StateError
from vitreg.reader.forward_pass import ForwardPass, Habits, Progress
from vitreg.types import Arguments, Passes, Tower

MOST = 8
"""How many passes are kept for one penalty unless all were asked for; each keeps what its backward needs."""


WITHOUT_GRADIENTS = "the last one ran without gradients (torch.no_grad or inference_mode)"


def reason_to_skip(tower: Tower, passes: ThreadPasses) -> str | None:
    """Return why a pass that begins now is no training pass, as the end of a sentence, or None if it is.

    Some train in eval mode, without dropout. Where a model was trained in training mode, a pass in eval mode
    is an evaluation, unless the model is frozen and only something else is trained.
    """
    if not torch.is_grad_enabled():
        return WITHOUT_GRADIENTS
    if tower.module.training:
        return None
    is_pending = passes.current.images is not None and passes.current.is_training
    if is_pending or (passes.has_trained and any(p.requires_grad for p in tower.module.parameters())):
        return (
            "the last one ran in eval mode, though others ran in training mode before; call model.train() "
            "before it, or attach again to train in eval mode"
        )
    return None


Worker: TypeAlias = "tuple[threading.Thread, asyncio.Task[Any] | None]"
"""A thread, and the task of asyncio that runs in it, as several of them take turns."""


def _worker_now() -> Worker:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs
        task = None
    return threading.current_thread(), task  # the number of a thread may be that of one that has ended


def _has_ended(worker: Worker) -> bool:
    thread, task = worker
    return not thread.is_alive() or (task is not None and task.done())


class ThreadPasses:
    """The passes of one thread or task.

    Attributes:
        current: the last pass that was read, or an empty one.
        earlier: the passes that count beside it.
        skipped: why there is none, or why the pass that runs now is not read; the end of a sentence.
        entered: what the tower is being called with.
        are_unclear: whether it is not known which passes count.
        has_trained: whether a pass in training mode was taken account of.
        is_read: whether the pass that runs now is read, or the last one was: its blocks are computed again.
    """

    def __init__(self, tower: Tower, skipped: str) -> None:
        self.entered: Arguments | None = None
        self.has_trained = False
        self.is_read = False
        self.current = ForwardPass(tower, Habits())
        self.clear(tower, skipped)

    def clear(self, tower: Tower, reason: str) -> None:
        """Forget the passes; `reason` ends the sentence that says why there are none."""
        if self.current.is_training:
            self.has_trained = True
        self.current = ForwardPass(tower, Habits())
        self.earlier: list[ForwardPass] = []
        self.skipped: str | None = reason
        self.are_unclear = False

    def drop_evaluations(self, tower: Tower) -> bool:
        """Forget passes in eval mode if the one that begins is in training mode; return whether it is."""
        if tower.module.training and not self.current.is_training:
            self.clear(tower, "")
        return tower.module.training

    def follow(self, last: ForwardPass, counts: Passes | None, progress: Progress | None) -> None:
        """Say what becomes of the `last` pass, which is whole, as another one begins.

        By default it counts beside the next one, as the pass of another view or of R-Drop does, unless the
        training has made progress since: then it belongs to a step of its own, which took no penalty.
        """
        if counts == "all":
            self.earlier = [*self.earlier, last]
        elif counts == "last":
            self.earlier = []
        elif progress is None:
            self.are_unclear = True
        elif last.progress != progress or last.is_freed:
            self.earlier, self.are_unclear = [], False
        elif len(self.earlier) + 1 < MOST:
            self.earlier = [*self.earlier, last]
        else:
            self.earlier, self.are_unclear = [], True

    def passes_that_count(self, counts: Passes | None) -> list[ForwardPass]:
        """Return the passes that count, the last one at the end; see `Reader.all_passes`."""
        if self.are_unclear:
            raise StateError(
                "Expected one forward pass since the last penalty, found several, and cannot tell which of "
                f"them are meant (a compiled model does not say, and otherwise {MOST} are kept). Take a "
                "penalty after each, or say it: vitreg.attach(…, passes='all') takes the mean over all of "
                "them, passes='last' the last one alone."
            )
        passes = [*(one for one in self.earlier if counts == "all" or not one.is_freed), self.current]
        if torch.is_grad_enabled() and any(one.is_freed for one in passes):
            raise StateError(
                "Expected the penalty before the backward pass of its forward pass, found that this one has "
                "freed what the penalty's gradient needs. Add the penalty to the loss before "
                "loss.backward(), or call loss.backward(retain_graph=True); for its value alone, take it "
                "under torch.no_grad()."
            )
        return passes


class Threads:
    """The passes of each worker that runs a tower; a compiled model's are those of the first."""

    def __init__(self, tower: Tower, skipped: str) -> None:
        self._tower = tower
        self._skipped = skipped
        self._home = ThreadPasses(tower, skipped)
        self._at_home: Worker | None = None
        self._others: dict[Worker, ThreadPasses] = {}

    @property
    def are_several(self) -> bool:
        """Whether more than one thread has run the tower."""
        return any(self._at_home is None or thread is not self._at_home[0] for thread, _ in self._others)

    def now(self) -> ThreadPasses:
        """Return the passes of the worker that asks."""
        if torch.compiler.is_compiling():
            return self._home
        worker = _worker_now()
        if self._at_home is None:
            self._at_home = worker
        if worker == self._at_home:
            return self._home
        if worker not in self._others:
            if _has_ended(self._at_home):  # one worker after the other
                if worker[0] is not self._at_home[0]:
                    self._home.clear(self._tower, self._skipped)
                self._at_home = worker
                return self._home
            self._others = {other: passes for other, passes in self._others.items() if not _has_ended(other)}
            self._others[worker] = ThreadPasses(
                self._tower, "none was seen in this thread or task: take it where the model runs"
            )
        return self._others[worker]

    def clear(self, reason: str) -> None:
        """Forget the passes of all workers."""
        for passes in (self._home, *self._others.values()):
            passes.clear(self._tower, reason)
