"""Where runs are computed, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from vitreg.train.basics.progress import Progress
from vitreg.train.training.checkpoint import SECONDS


@dataclass(frozen=True)
class Workplace:
    """Where runs are computed and stored, and who is told of it.

    Attributes:
        out: the folder of all runs.
        accelerator: the device and the precision.
        workers: how many processes read pictures.
        progress: what the person who waits sees.
        checkpoint_seconds: of training that an interruption may cost; 0 for no checkpoints.
        keeps_models: whether the trained weights stay beside each report.
        trackers: of accelerate's, which are told each run's log as it comes.
    """

    out: Path
    accelerator: Accelerator
    workers: int
    progress: Progress
    checkpoint_seconds: float = SECONDS
    keeps_models: bool = False
    trackers: Sequence[str] = ()
