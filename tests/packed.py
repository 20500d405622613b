"""Archives that are packed here, under the name of an owner's."""

from __future__ import annotations

import dataclasses
import hashlib
import tarfile
import zipfile
from pathlib import Path

import pytest

import vitreg.train.data.archives
import vitreg.train.data.official
from vitreg.train.data.archives import Archive
from vitreg.train.data.official.layout import Layout


def pack(folder: Path, archive: Path, *, top: str | None = None) -> Path:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for path in sorted(folder.rglob("*")):
                zipped.write(path, Path(top or folder.name) / path.relative_to(folder))
    else:
        mode = "w" if archive.suffix == ".tar" else f"w:{archive.suffix.lstrip('.').replace('tgz', 'gz')}"
        with tarfile.open(archive, mode) as tar:
            tar.add(folder, arcname=folder.name if top is None else top)
    return archive


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def use(monkeypatch: pytest.MonkeyPatch, layout: Layout, *archives: Archive) -> Layout:
    """Let the owner have published other archives."""
    other = dataclasses.replace(layout, archives=archives)
    layouts = [other if one.name == layout.name else one for one in vitreg.train.data.official.LAYOUTS]
    monkeypatch.setattr(vitreg.train.data.official, "LAYOUTS", tuple(layouts))
    return other
