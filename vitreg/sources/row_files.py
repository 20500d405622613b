"""Tables on disk, in NumPy's format: rows are read through memory mapping and written one by one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vitreg.errors import StateError

Layout = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""For each table of a folder, by name, its type and its shape."""

FACTS = "facts.json"


class RowFiles:
    """The tables of a folder, which is made if it does not exist: whole, or not at all.

    Rows that nobody has written take no space, and are zero. They are written as to any file, so that a full
    disk is an error and not the end of the process, as a write to mapped memory would be.

    Args:
        folder: where they lie.
        layout: which tables.
        facts: what the folder belongs to, written beside them.

    Attributes:
        tables: each table by name, mapped: what any process writes is seen.

    Raises:
        StateError: the folder cannot be written, or is damaged.
    """

    def __init__(self, folder: Path, layout: Layout, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        try:
            if not folder.exists():
                _make(folder, layout, facts)
            self.tables = {name: self._map(name, *layout[name]) for name in layout}
        except (OSError, ValueError) as error:
            raise unusable(folder, error) from error

    def write(self, name: str, row: int, values: np.ndarray[Any, Any]) -> None:
        """Write a row of the table `name`.

        Raises:
            StateError: it cannot be written, as on a full disk.
        """
        table = self.tables[name]
        assert values.dtype == table.dtype
        try:
            with (self.folder / f"{name}.npy").open("r+b", buffering=0) as file:
                file.seek(table.offset + row * table[:1].nbytes)
                written = file.write(values.tobytes())
        except OSError as error:
            raise unusable(self.folder, error) from error
        if written != values.nbytes:
            raise unusable(self.folder, OSError("the disk is full"))

    def _map(self, name: str, kind: np.dtype[Any], shape: tuple[int, ...]) -> Any:
        path = self.folder / f"{name}.npy"
        try:
            np.load(path, mmap_mode="r")  # refuses a file that is too short, which "r+" would make longer
        except EOFError as error:  # neither an OSError nor a ValueError
            raise ValueError(f"{path.name} is empty") from error
        table = np.load(path, mmap_mode="r+")
        if table.dtype != kind or table.shape != shape:
            raise ValueError(f"expected {kind} {shape} in {path.name}, found {table.dtype} {table.shape}")
        return table


def check_folder(folder: Path) -> None:
    """Make `folder` if it does not exist, and raise `StateError` unless it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unusable(folder, error) from error


def facts_in(folder: Path) -> dict[str, Any]:
    """Return the facts that were written beside the tables of `folder`.

    Raises:
        StateError: they are damaged.
    """
    try:
        facts = json.loads((folder / FACTS).read_text())
        if not isinstance(facts, dict):
            raise ValueError(f"no facts in {FACTS}")
    except (OSError, ValueError) as error:
        raise unusable(folder, error) from error
    return facts


def unusable(folder: Path, error: Exception) -> StateError:
    """Return the error that says that `folder` cannot be used, and why."""
    return StateError(
        f"{folder} cannot be used to remember readings ({error}). Delete it, or choose another path."
    )


def _make(folder: Path, layout: Layout, facts: Mapping[str, Any]) -> None:
    """Make the tables beside `folder` and move them there at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (made / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
        for name, (kind, shape) in layout.items():
            np.lib.format.open_memmap(made / f"{name}.npy", mode="w+", dtype=kind, shape=shape)
        made.chmod(0o777 & ~_umask())
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _umask() -> int:
    """Return the permissions that new files do not get; it can only be read by setting it."""
    umask = os.umask(0o022)
    os.umask(umask)
    return umask
