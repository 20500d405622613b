"""Archives unpacked once: whole or not at all, and never outside their folder."""

from __future__ import annotations

import json
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from torchvision.datasets.utils import check_integrity

from vitreg.errors import InputError
from vitreg.files import make_folder_once, write_atomically
from vitreg.wording import listed

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
_STAMP = ".unpacked.json"
MOST_TIMES, MOST_SMALL, MOST_MEMBERS = 50, 2**30, 20_000_000
"""How many times its size an archive may become (pictures hardly shrink), or how many bytes if it is small;
and how many files."""

_BROKEN = (OSError, EOFError, RuntimeError, ValueError, tarfile.TarError, zipfile.BadZipFile)
_COMPRESSION = (zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Archive:
    """A file as its owner hands it out, with its MD5 sum and address where both are still published.

    One that is no archive (a list beside the pictures) is copied as it is.
    """

    name: str
    md5: str | None = None
    url: str | None = None


def is_archive(path: Path) -> bool:
    """Return whether the name of `path` is that of an archive."""
    return path.name.lower().endswith(SUFFIXES)


def unpack(folder: Path, archives: Sequence[Archive], into: Path, *, say: Callable[[str], None]) -> Path:
    """Return the folder in `into` that holds what the archives of `folder` hold together, unpacked once.

    They are unpacked beside it and renamed, so that a kill at any moment leaves all of it or nothing;
    repeating the call starts afresh. Of several processes, one unpacks and the others wait for it.

    Raises:
        InputError: An archive is missing, broken or not the owner's, has a member that would leave the
            folder, or `into` was unpacked from others.
    """
    paths = [folder / archive.name for archive in archives]
    names = listed(path.name for path in paths)
    if missing := [path.name for path in paths if not path.is_file()]:
        together = f"; {names} belong together" if len(paths) > 1 else ""
        raise InputError(f"cannot read the data archive: no {listed(missing)} in {folder}{together}")
    stamp = json.dumps([[path.name, path.stat().st_size] for path in paths])
    try:
        into.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot unpack into {into}: {error.strerror}; unpack {names} yourself and give that folder"
        ) from error

    def fill(part: Path) -> None:
        for path, archive in zip(paths, archives, strict=True):
            say(f"unpacking {path} (once)")
            if not check_integrity(path, archive.md5):
                raise InputError(
                    f"{path} is not the owner's file: its MD5 sum is not {archive.md5}; fetch it again, or "
                    "unpack it yourself and give that folder"
                )
            _extract(path, part)
        write_atomically(part / _STAMP, stamp)

    done = make_folder_once(into, fill)
    if not (done / _STAMP).is_file() or (done / _STAMP).read_text() != stamp:
        raise InputError(
            f"{into} was unpacked from other archives than {names} are now; remove it, and they are unpacked "
            "again"
        )
    return done


def _extract(path: Path, into: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise InputError(f"cannot unpack {path} safely with this Python: 3.10.12, 3.11.4 or a later one can")

    room = _Room(path, into)

    def plain(member: tarfile.TarInfo, place: str) -> tarfile.TarInfo | None:
        room.take(member.size)
        _check_member(path, member.name, is_plain=member.isreg() or member.isdir())
        return tarfile.data_filter(member, place)

    try:
        if not is_archive(path):
            shutil.copyfile(path, into / path.name)
        elif path.name.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as zipped:
                for entry in zipped.infolist():
                    room.take(entry.file_size)
                    kind = stat.S_IFMT(entry.external_attr >> 16)
                    is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
                    _check_member(path, entry.filename, is_plain=is_plain)
                zipped.extractall(into)
        else:
            with tarfile.open(path) as tar:
                tar.extractall(into, filter=plain)
                _check_end(tar)
    except (*_BROKEN, *_COMPRESSION) as error:
        raise InputError(
            f"cannot unpack {path}: {error}; nothing of it was kept; if it is not whole, fetch it again"
        ) from error


class _Room:
    """How much an archive may still become: what the disk has room for, and never many times its size."""

    def __init__(self, path: Path, into: Path) -> None:
        self.path = path
        free = shutil.disk_usage(into).free
        self.bytes = min(free, max(MOST_SMALL, MOST_TIMES * path.stat().st_size))
        self.members = MOST_MEMBERS

    def take(self, size: int) -> None:
        """Count a member of `size` bytes; raises `InputError` where it is too much."""
        self.bytes -= size
        self.members -= 1
        if self.bytes < 0 or self.members < 0:
            raise InputError(
                f"{self.path} is refused: it would become more than the disk has room for, {MOST_TIMES} "
                f"times its size, or {MOST_MEMBERS:,} files; unpack it yourself and give that folder"
            )


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise unless the archive ends as one does: tarfile takes a broken or missing header for the end."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no end after its first {tar.offset} bytes")


def _check_member(path: Path, name: str, *, is_plain: bool) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if not is_plain or parts.is_absolute() or ".." in parts.parts or PureWindowsPath(name).drive:
        raise InputError(
            f"{path} is refused: its member {name!r} is "
            + ("outside its folder" if is_plain else "a link or a device, not a file or a folder")
        )
