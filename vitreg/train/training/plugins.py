"""Parts from outside: penalties, extractors, families, models and rows that a file or a package registers.

A plugin is a Python file that registers its parts when it is imported, as `docs/howto/extend.md` shows, or an
installed package that names such a module as an entry point of the group `vitreg.plugins`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

from vitreg.errors import InputError
from vitreg.train.models.weights import file_hash
from vitreg.train.training.methods import brought_by
from vitreg.wording import first_line

GROUP = "vitreg.plugins"

_loaded: set[str] = set()


def load_plugins(files: Sequence[str | Path] = ()) -> None:
    """Import the installed plugins and `files`, each once in a process.

    Raises:
        InputError: One cannot be read, or fails when it is imported.
    """
    for entry in entry_points(group=GROUP):
        found = importlib.util.find_spec(entry.value.partition(":")[0])
        place = Path(found.origin) if found is not None and found.origin else Path(entry.name)
        _load(f"the plugin {entry.name}", place, entry.load)
    for file in map(Path, files):
        if not file.is_file():
            raise InputError(f"--plugin {file}: expected a Python file, found no such file")
        _load(f"--plugin {file}", file.resolve(), partial(_import, file.resolve()))


def _load(what: str, file: Path, load: Callable[[], object]) -> None:
    if str(file) in _loaded:
        return
    try:
        with brought_by(file_hash(file)[:16]):
            load()
    except Exception as error:  # whatever the plugin's code raises
        raise InputError(f"{what} cannot be used: {first_line(error)}") from error
    _loaded.add(str(file))


def _import(file: Path) -> None:
    name = f"vitreg_plugin_{file.stem}_{file_hash(file)[:8]}"
    found = importlib.util.spec_from_file_location(name, file)
    if found is None or found.loader is None:
        raise ValueError("expected a Python file (.py)")
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
