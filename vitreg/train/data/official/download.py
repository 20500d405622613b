"""Archives fetched from where their owner still serves them."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from vitreg.errors import InputError
from vitreg.files import prepare_out, whole_file
from vitreg.train.basics.download import download
from vitreg.train.data.official.layout import Layout
from vitreg.wording import listed


def download_archives(layout: Layout, folder: Path, *, say: Callable[[str], None]) -> None:
    """Fetch the archives of a data set into `folder`; those that lie there already are left alone.

    Raises:
        InputError: The owner no longer serves one with a published sum, or it does not arrive whole.
    """
    missing = [archive for archive in layout.archives if not (folder / archive.name).is_file()]
    without = [archive.name for archive in missing if archive.url is None or archive.md5 is None]
    if without:
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
