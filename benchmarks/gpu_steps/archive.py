"""One archive with everything that a call has found, small enough to be carried home."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path

LIMIT = 16 * 2**20 - 2**16
"""Bytes of the whole archive."""

LOG_LIMIT = 2**17
"""Bytes of a log that are kept: its beginning and its end."""

LEFT_OUT = "left_out.txt"
KEPT = ("steps", "results", "runs", LEFT_OUT)
HEAVY = (".safetensors", ".pt", ".npy", ".part", ".tmp")
"""What is never kept: weights, checkpoints, and what is half written."""


def write_archive(work: Path, path: Path, *, limit: int = LIMIT) -> None:
    """Write what is finished in the folder `work` to `path`, whole or not at all.

    Where it would be larger than `limit` bytes, the largest files stay behind, and `left_out.txt` names them.
    """
    files = [file for file in _files(work) if not file.name.endswith(HEAVY)]
    left_out: list[Path] = []
    half = path.with_name(path.name + ".part")
    while True:
        note = work / LEFT_OUT
        note.write_text("".join(f"{file.relative_to(work)}\n" for file in left_out), encoding="utf-8")
        _write(work, half, [*files, note])
        if half.stat().st_size <= limit or not files:
            break
        largest = sorted(files, key=lambda file: file.stat().st_size, reverse=True)
        staying = largest[: max(1, len(largest) // 50)]
        left_out += staying
        files = [file for file in files if file not in staying]
    os.replace(half, path)


def _write(work: Path, path: Path, files: Iterable[Path]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for file in files:
            archive.add(file, str(file.relative_to(work)))


def _files(work: Path) -> list[Path]:
    """Return what is finished: results, logs, and runs with their `DONE`."""
    found = []
    for folder in KEPT:
        for file in sorted((work / folder).rglob("*")):
            if not file.is_file() or file.is_symlink():
                continue
            if folder == "runs" and not (file.parent / "DONE").is_file():
                continue
            if file.suffix == ".txt" and file.stat().st_size > LOG_LIMIT:
                _shorten(file)
            found.append(file)
    return found


def _shorten(log: Path) -> None:
    content = log.read_bytes()
    half = LOG_LIMIT // 2 - 100
    log.write_bytes(content[:half] + b"\n... the middle is left out ...\n" + content[-half:])


def unpack_into(work: Path, source: Path) -> None:
    """Add what an archive or a folder of an earlier call holds to `work`; what is there stays.

    Raises:
        SystemExit: It is neither, or cannot be read.
    """
    if source.is_dir():
        for name in KEPT[:-1]:
            for file in sorted((source / name).rglob("*")):
                target = work / file.relative_to(source)
                if file.is_file() and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, target)
        return
    try:
        with tarfile.open(source) as archive:
            for member in archive.getmembers():
                top = Path(member.name).parts[:1]
                is_ours = member.isfile() and top and top[0] in KEPT[:-1]
                if is_ours and not (work / member.name).exists():
                    archive.extract(member, work, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise SystemExit(f"expected an archive of benchmarks/gpu.py, found {source}: {error}") from error
