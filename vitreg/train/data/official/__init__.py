"""The paper's data sets in their owners' layouts: recognised, fetched, unpacked where need be, and read."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from vitreg.errors import InputError
from vitreg.files import prepare_out, whole_file
from vitreg.train.basics.download import download
from vitreg.train.data.archives import Archive, is_archive, unpack
from vitreg.train.data.official.aircraft import AIRCRAFT
from vitreg.train.data.official.cars import CARS
from vitreg.train.data.official.cub import CUB
from vitreg.train.data.official.dogs import DOGS
from vitreg.train.data.official.layout import Layout
from vitreg.train.data.official.pet import PET
from vitreg.train.data.official.voc import VOC
from vitreg.train.data.samples import Folder
from vitreg.wording import listed

LAYOUTS = (CUB, CARS, AIRCRAFT, DOGS, PET, VOC)


def layout_of(name: str) -> Layout | None:
    """Return the layout of the data set that the paper calls `name`, or None."""
    return next((layout for layout in LAYOUTS if layout.name.lower() == name.lower()), None)


def read_official(root: Path, name: str) -> Folder | None:
    """Return what lies in `root`, or None if it is in no official layout.

    Raises:
        InputError: It is another data set than `name`, where that is one of the paper's, or is not whole.
    """
    named = layout_of(name)
    for layout in LAYOUTS if named is None else (named, *LAYOUTS):
        base = layout.find(root)
        if base is not None:
            if named is not None and layout is not named:
                raise InputError(f"{name}={root} is {layout.title}, not {named.title}")
            return layout.read(base)
    return None


def unpack_official(path: Path, name: str, *, say: Callable[[str], None]) -> Path:
    """Return the folder of what was given as an archive, or as a folder of archives as they were downloaded.

    Any other path is returned as it is.
    """
    if path.is_dir() or not is_archive(path):
        layout = layout_of(name)
        if layout is None or layout.find(path) is not None or not (path / layout.archives[0].name).is_file():
            return path
        return unpack(path, layout.archives, path / f"{layout.folder}.unpacked", say=say)
    for layout in LAYOUTS:
        if path.name in {archive.name for archive in layout.archives}:
            return unpack(path.parent, layout.archives, path.parent / f"{layout.folder}.unpacked", say=say)
    files = unpack(path.parent, [Archive(path.name)], path.parent / f"{path.name}.unpacked", say=say)
    entries = [entry for entry in files.iterdir() if not entry.name.startswith(".")]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else files


def download_archives(layout: Layout, folder: Path, *, say: Callable[[str], None]) -> None:
    """Fetch the archives of a data set into `folder`; those that lie there already are left alone.

    Raises:
        InputError: The owner no longer serves one with a published sum, or it does not arrive whole.
    """
    missing = [archive for archive in layout.archives if not (folder / archive.name).is_file()]
    if without := [archive.name for archive in missing if archive.url is None or archive.md5 is None]:
        raise InputError(
            f"{listed(without)} of {layout.title} cannot be downloaded safely: no address with a published "
            f"MD5 sum; fetch it yourself from {layout.address} and put it into {folder}"
        )
    prepare_out(folder)
    for archive in missing:
        say(f"downloading {archive.url}")
        try:
            with whole_file(folder / archive.name) as file:
                if download(str(archive.url), file, algorithm="md5") != archive.md5:
                    raise InputError(
                        f"{archive.url} did not arrive whole: its MD5 sum is not {archive.md5}; "
                        "nothing was kept, repeat the command"
                    )
        except (OSError, HTTPException) as error:
            raise InputError(
                f"cannot download {archive.url}: {error}; fetch it yourself from {layout.address} and put it "
                f"into {folder}"
            ) from error
