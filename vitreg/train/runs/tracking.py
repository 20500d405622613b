"""A run's log while it is trained, for those who watch: TensorBoard or another of accelerate's trackers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from vitreg.errors import InputError
from vitreg.train.basics.distributed import is_main
from vitreg.train.runs.report import Configuration
from vitreg.train.training.state import Entry

TRACKERS = tuple(sorted(LOGGER_TYPE_TO_CLASS))
PROJECT = "vitreg"


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker whose library is missing, before any training.

    Raises:
        InputError: It names what to install.
    """
    available = {tracker.value for tracker in get_available_trackers()}
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"--log-with {name}: expected one of {', '.join(TRACKERS)}")
        if name not in available:
            raise InputError(f"--log-with {name}: its library is not installed; pip install {name}")


@contextmanager
def track(
    names: Sequence[str], configuration: Configuration, folder: Path
) -> Iterator[Callable[[Entry], None]]:
    """Yield the function that is told each entry of a run's log: all of them, also those before a kill.

    Local files are in the run's `folder`, and TensorBoard's of an earlier attempt are deleted.
    """
    if not names or not is_main():
        yield lambda entry: None
        return
    shutil.rmtree(folder / PROJECT, ignore_errors=True)
    accelerator = Accelerator(log_with=list(names), project_dir=str(folder))
    named = {"wandb": {"name": folder.name}}
    accelerator.init_trackers(PROJECT, config=_flat(asdict(configuration)), init_kwargs=named)

    def tell(entry: Entry) -> None:
        values = {name: value for name, value in entry.items() if name != "step"}
        accelerator.log(values, step=int(entry["step"]))

    try:
        yield tell
    finally:
        for tracker in accelerator.trackers:  # and not `end_training`, which would end the process group
            tracker.finish()


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options as one level of numbers, texts and truth values, as the trackers want them."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
