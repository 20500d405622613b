"""Archives fetched from where their owner still serves them."""

from __future__ import annotations

import os
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from torch.hub import download_url_to_file
from torchvision.datasets.utils import check_integrity

from vitreg.errors import InputError
from vitreg.files import prepare_out
from vitreg.train.data.official.layout import Layout
from vitreg.wording import listed


def download(layout: Layout, folder: Path, *, say: Callable[[str], None]) -> None:
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
        part = folder / f".{archive.name}.part"
        say(f"downloading {archive.url}")
        try:
            download_url_to_file(str(archive.url), str(part))
            if not check_integrity(part, archive.md5):
                raise InputError(
                    f"{archive.url} did not arrive whole: its MD5 sum is not {archive.md5}; "
                    "nothing was kept, repeat the command"
                )
            os.replace(part, folder / archive.name)
        except (OSError, HTTPException) as error:
            raise InputError(
                f"cannot download {archive.url}: {error}; fetch it yourself from {layout.address} and put it "
                f"into {folder}"
            ) from error
        finally:
            part.unlink(missing_ok=True)
