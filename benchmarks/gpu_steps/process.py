"""A command in a process group of its own, with its output in a file, ended when its time is over."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

GRACE = 3.0
"""Seconds between asking a process group to end and ending it."""


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        code: the exit code, or None where its time was over.
        seconds: how long it ran.
    """

    code: int | None
    seconds: float


def run_for(
    seconds: float,
    command: Sequence[str],
    *,
    log: Path,
    folder: Path,
    environment: Mapping[str, str],
    grace: float = GRACE,
) -> Ended:
    """Run `command` for at most `seconds`, and return how it ended; none of its processes outlives it.

    Args:
        seconds: after which it is ended; what ending it takes is included.
        command: program and arguments.
        log: the file that gets what it prints.
        folder: where it runs.
        environment: what is added to this process's variables.
        grace: how much of `seconds` it has for ending by itself once it is asked to.
    """
    began = time.monotonic()
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(max(seconds - grace, 0.0))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_group(process, grace if process.returncode is None else 0.0)
    return Ended(code, time.monotonic() - began)


def _end_group(process: subprocess.Popen[bytes], grace: float) -> None:
    """End what is left of the process and its children."""
    if grace:
        _signal(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    _signal(process.pid, signal.SIGKILL)  # also where the first process is gone and a child is not
    process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all of them have ended
        os.killpg(group, number)
