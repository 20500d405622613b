"""A run's last checkpoint: one file, whole or not there, from which training continues exactly."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitreg.errors import InputError
from vitreg.files import write_atomically
from vitreg.train.basics.distributed import gather, on_main, rank, vary_random_numbers, world_size
from vitreg.train.models.weights import state_hash
from vitreg.train.training.state import Training
from vitreg.weights import check_archive
from vitreg.wording import listed

NAME = "checkpoint.pt"

SECONDS = 60.0
"""Of training that an interruption may cost, by default."""

# NOTE: accelerate's `save_state` writes a folder of files one after the other, without fsync: a kill can
# leave the new weights beside the old optimizer. Its `load_state` goes on in silence where the random states
# cannot be read, and neither knows the log or whose checkpoint it is.


class Checkpoints:
    """The checkpoint of one run, in the run's folder, which the caller holds the lock of.

    `owner` says what else decides the figures: a checkpoint of another owner is not used. The schedule, the
    batches and the attachment's step follow from the number of steps; the attachment's source is the model
    as it comes in, which is compared with the one that the checkpoint began with. It is written after `every`
    seconds and at the end; 0 writes and reads none. Of several processes the main one writes and reads it,
    with the random states of all.

    Attributes:
        continued: how many times the training was taken up from a checkpoint, without those after which no
            further one was written.
    """

    def __init__(
        self, folder: Path, owner: Mapping[str, Any], *, say: Callable[[str], None], every: float = SECONDS
    ) -> None:
        self.path = folder / NAME
        self.owner = dict(owner)
        self.say = say
        self.every = every
        self.continued = 0
        self._began = self._written = time.monotonic()
        self._earlier = 0.0
        self._has_failed = False

    @property
    def seconds(self) -> float:
        """The seconds of the training, and of what followed."""
        return self._earlier + time.monotonic() - self._began

    def restore(self, training: Training, indices: Sequence[int]) -> None:
        """Bring `training`, random states included, to the checkpoint, if there is one that fits.

        `training` is that of the model as it comes in, to be trained on `indices` of the task.

        Raises:
            InputError: The checkpoint fits, and yet cannot be loaded.
        """
        if self.every <= 0:
            return
        stored = on_main(lambda: self._fitting(training, indices))
        if stored is None:
            return
        try:
            training.load_state_dict(stored)
            if training.projector is not None:
                training.projector.load_state_dict(stored["projector"])
            if training.attachment is not None and stored.get("attachment"):
                training.attachment.load_state_dict(stored["attachment"])
            training.log[:] = stored["log"]
            training.step, training.micro_batch = stored["step"], stored.get("micro_batch", 0)
            self.continued, self._earlier = stored["continued"] + 1, stored["seconds"]
            random_states = stored["random"]
            if len(random_states) == world_size():
                _set_random_states(random_states[rank()], training.model)
            else:  # of which a run with --fsdp may have another now
                _set_random_states(random_states[0], training.model)
                vary_random_numbers(int(torch.randint(2**31, ())))
        except Exception as error:
            raise InputError(
                f"cannot continue from {self.path} ({type(error).__name__}); delete it to start the run anew"
            ) from error
        self.say(f"continued from step {training.step}")

    def save(self, training: Training, *, is_last: bool) -> None:
        """Write the checkpoint if it is time to; a disk that is full is told once and stops nothing."""
        if self.every > 0 and (is_last or on_main(lambda: time.monotonic() - self._written >= self.every)):
            random_states, states = gather(_random_states(training.model)), training.state_dict()
            on_main(lambda: self._write(training, {**states, "random": random_states}))

    def _fitting(self, training: Training, indices: Sequence[int]) -> dict[str, Any] | None:
        """Return what the checkpoint holds, or None if there is none that fits."""
        # The weights and buffers, bit by bit, and the pictures that are trained on.
        start = f"{list(indices)} {state_hash(training.given.state_dict())}"
        self.owner["start"] = hashlib.sha256(start.encode()).hexdigest()[:16]
        _delete(self.path.parent.glob(f".{NAME}.*"))  # left by a kill in the middle of writing
        if not self.path.exists():
            return None
        try:
            check_archive(self.path)  # every byte of its tensors; and nothing in it is executed
            stored: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            if stored["owner"] == self.owner:
                return stored
            reason = _difference(stored["owner"], self.owner)
        except Exception as error:  # whatever the broken bytes lead the readers into
            reason = f"it cannot be read: {type(error).__name__}"
        self.say(f"{self.path} is not used, the run starts anew ({reason})")
        return None

    def _write(self, training: Training, states: Mapping[str, Any]) -> None:
        content = BytesIO()  # torch, writing to a file itself, does not say that the disk is full
        torch.save(
            {
                "owner": self.owner,
                **states,
                "projector": training.projector and training.projector.state_dict(),
                "attachment": training.attachment and training.attachment.state_dict(),
                "log": training.log,
                "step": training.step,
                "micro_batch": training.micro_batch,
                "continued": self.continued,
                "seconds": self.seconds,
            },
            content,
        )
        try:
            write_atomically(self.path, content.getvalue())
        except OSError as error:
            if not self._has_failed:
                self.say(f"cannot write {self.path}: {error.strerror}; the training goes on without it")
            self._has_failed = True
        self._written = time.monotonic()


def discard(folder: Path) -> None:
    """Delete the checkpoint of a finished run, and what a kill left of one, where that is possible."""
    _delete([folder / NAME, *folder.glob(f".{NAME}.*")])


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Return in words what was other when the checkpoint was written."""
    before, now = _flat(theirs), _flat(ours)
    return listed(
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value) if isinstance(value, Mapping) else {name: value})
    return flat


def _random_states(model: nn.Module) -> dict[str, Any]:
    """Return the states of all generators that a model or an augmentation may draw from."""
    numpy: Any = np.random.get_state()
    device = next(model.parameters()).device
    return {
        "python": random.getstate(),
        "numpy": (numpy[0], numpy[1].tolist(), *numpy[2:]),
        "torch": torch.get_rng_state(),
        "device": None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(),
    }


def _set_random_states(states: Mapping[str, Any], model: nn.Module) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["device"] is not None:
        torch.get_device_module(next(model.parameters()).device).set_rng_state(states["device"])
