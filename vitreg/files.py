"""Files that are whole or not there, and folders that one process holds alone."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from vitreg.errors import InputError


def prepare_out(out: Path) -> None:
    """Create the folder of all runs.

    Raises:
        InputError: It cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise InputError(f"cannot write to --out {out}: {error.strerror}") from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that is, at any moment, either the old one or the whole new one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, is on the disk before the next file is
    finally:
        os.close(folder)


@contextmanager
def lock(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold `folder` alone among all processes; yields whether it is held (always, with `wait`).

    The operating system lets go of it when the process dies, however it dies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as file:
        _locks.add(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            _locks.discard(file)


_locks: set[IO[str]] = set()


def _let_go() -> None:
    """Close the parent's locks in a forked child, so that no worker outlives its parent with one."""
    for file in _locks:
        file.close()
    _locks.clear()


os.register_at_fork(after_in_child=_let_go)
