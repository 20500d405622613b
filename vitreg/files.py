"""Files that are whole or not there, and folders that one process holds alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

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


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write to, which replaces `path` when the block ends, and disappears if it fails."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder, and writes names in order by itself
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name, too, is on the disk before the next file is
        finally:
            os.close(folder)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that is, at any moment, either the old one or the whole new one."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_everything_to_disk() -> None:
    """Wait until all that was written is on the disk, on systems that can tell."""
    if hasattr(os, "sync"):
        os.sync()


@contextmanager
def lock(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold `folder` alone among all processes; yields whether it is held (always, with `wait`).

    The operating system lets go of it when the process dies, however it dies; forked workers do not keep it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A file system without locks is an error: a mark in a file would outlive a killed process.
    held = FileLock(folder / "lock", fallback_to_soft=False, preserve_lock_file=True)
    try:
        held.acquire(blocking=wait)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        held.release()
