"""A file from an address, read to its end."""

from __future__ import annotations

import hashlib
from typing import IO
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

TIMEOUT = 60
"""Seconds without a byte after which a download is given up."""


def download(url: str, file: IO[bytes], *, algorithm: str = "sha256") -> str:
    """Write what `url` serves to `file`, and return its digest in hexadecimal digits.

    Raises:
        OSError: It cannot be reached, leads to another scheme, or arrives short.
    """
    digest = hashlib.new(algorithm)
    with urlopen(Request(url, headers={"User-Agent": "vitreg"}), timeout=TIMEOUT) as response:
        if urlsplit(response.url).scheme != urlsplit(url).scheme:
            raise OSError(f"it leads to {response.url}")
        length = response.headers.get("Content-Length")
        while block := response.read(2**20):
            file.write(block)
            digest.update(block)
    if length is not None and file.tell() != int(length):
        raise OSError(f"{file.tell()} of {length} bytes arrived")
    return digest.hexdigest()
