"""Files that are whole or not there, and folders that one process holds alone."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
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
    """Write a file that is, at any moment, either the old one or the whole new one.

    Raises:
        OSError: It cannot be written; the error names it.
    """
    try:
        with whole_file(path) as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        if error.errno is not None:  # the system names no file where the disk is full
            error.filename = str(path)
        raise


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def write_sums(path: Path, files: Iterable[Path]) -> None:
    """Write the checksums of files into the file `path` beside them, as `sha256sum` does.

    Its first line, a comment, is the checksum of the others, by which a file that was cut is known.
    """
    lines = "".join(f"{sha256_of(file)}  {file.name}\n" for file in files)
    write_atomically(path, f"# {hashlib.sha256(lines.encode()).hexdigest()}\n{lines}")


def write_with_sum(path: Path, content: bytes) -> None:
    """Write a file and, before it, `PATH.sha256` beside it, so that none is there without its checksum."""
    sums = path.with_name(f"{path.name}.sha256")
    write_atomically(sums, f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")
    write_atomically(path, content)


def check_with_sum(path: Path) -> None:
    """Look whether a file is what `PATH.sha256` beside it says; where there is none, nothing is known.

    Raises:
        InputError: It is damaged.
    """
    try:
        check_sums(path.with_name(f"{path.name}.sha256"), [path.name])
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error}; delete it, and it is made again") from error


def summed_files(path: Path) -> list[str]:
    """Return the names of the files whose checksums are in the file `path`."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    return [line.partition("  ")[2] for line in text.splitlines() if not line.startswith("#")]


def check_sums(path: Path, names: Iterable[str]) -> None:
    """Look whether files are those whose checksums lie beside them in the file `path`.

    Nothing is known where that is missing or empty, as it was before there were checksums.

    Raises:
        ValueError: A file is not what was written, or its checksum cannot be read.
        OSError: A file cannot be read.
    """
    text = path.read_text(errors="replace") if path.is_file() else ""
    if not text:
        return
    first, _, rest = text.partition("\n")
    own = f"# {hashlib.sha256(rest.encode()).hexdigest()}"
    # Before sums had one of their own, their first line was a file's.
    if not text.endswith("\n") or (first != own and first.startswith("#")):
        raise ValueError(f"the checksums in {path.name} are damaged")
    known: dict[str, str] = {}
    for line in text.splitlines()[first == own :]:
        digest, _, name = line.partition("  ")
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"the checksums in {path.name} are damaged")
        known[name] = digest
    for name in names:
        if name not in known:
            raise ValueError(f"{path.name} has no checksum of {name}")
        if sha256_of(path.parent / name) != known[name]:
            raise ValueError(f"{name} is not what was written: its sha256 is not that in {path.name}")


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
    except OSError as error:  # such as a link, which is never followed
        raise InputError(
            f"cannot lock {folder}: {error.strerror} ({folder / 'lock'}); remove it, or give another folder"
        ) from error
    try:
        yield True
    finally:
        held.release()


def make_folder_once(place: Path, make: Callable[[Path], None]) -> Path:
    """Return the folder `files` in `place`, which `make` fills where it is not there.

    Whatever happens meanwhile, it holds all or is not there, and repeating the call starts afresh. Of several
    processes one makes it, and the others wait.
    """
    done, part = place / "files", place / "part"
    if done.is_dir():
        return done
    with lock(place, wait=True):
        if not done.is_dir():  # another process may have made it meanwhile
            shutil.rmtree(part, ignore_errors=True)  # of one that was killed
            try:
                part.mkdir()
                make(part)
                if hasattr(os, "sync"):  # what is in the files, before their folder gets its name
                    os.sync()
                part.rename(done)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
    return done
