"""How a picture file is read, by everything that reads one: training, prediction, `vitreg attention`.

A file is read whole before Pillow sees it, only if it is a regular file, and only as one of `formats`: Pillow
would start another program for PostScript.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vitreg.errors import InputError
from vitreg.pictures.colours import UnknownBrightnessError, has_16_bits, in_colours

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""What is read, where Pillow can: AVIF from its version 11.3 on, HEIF with pillow-heif."""

MOST_BYTES = 2**31
MOST_PIXELS = 178_956_970
"""Beyond which Pillow refuses a picture, too: 13,377 × 13,377."""

PIXELS_AT_ONCE = 100_000_000
"""How many pixels threads hold decoded at once, at up to 12 bytes each; one larger picture is read alone."""


class Picture(NamedTuple):
    """A picture that was read.

    Attributes:
        image: upright, in red, green and blue of 8 bits.
        digest: the sha256 of the file.
        stored: width and height before it was turned upright.
        orientation: as the camera noted it in EXIF (tag 0x0112), 1 if it was held upright.
        notes: what else was done to the stored pixels, such as "16 bits".
    """

    image: Image.Image
    digest: str
    stored: tuple[int, int]
    orientation: int
    notes: tuple[str, ...]


def read_picture(path: Path) -> Image.Image:
    """Return the picture in a file, upright, in red, green and blue of 8 bits.

    16 bits are scaled, and what is transparent lies on white.

    Raises:
        InputError: There is no such file, it is not regular, or it holds no whole picture that is read.
    """
    with opened_picture(path) as picture:
        return picture.image


@contextmanager
def opened_picture(path: Path) -> Iterator[Picture]:
    """Yield what `read_picture` returns, with all that is known of it.

    Large pictures are held by few threads at once: this waits for its turn, and the turn ends with the block.
    Two must not be open in one thread.

    Raises:
        InputError: As `read_picture`.
    """
    content = _content(path)
    try:
        stored = _identify(content)
    except Exception as error:
        raise InputError(f"cannot read the picture {path}: {_reason(error, content)}") from error
    with _turns.take(stored.width * stored.height):
        try:
            picture = _decode(stored, hashlib.sha256(content).hexdigest())
        except Exception as error:  # PIL's readers raise whatever the broken bytes lead them into
            raise InputError(f"cannot read the picture {path}: {_reason(error, content)}") from error
        yield picture


def read_numbers(path: Path) -> Image.Image:
    """Return a mask, whose pixels are numbers and not colours, as it is stored.

    Raises:
        InputError: As `read_picture`.
    """
    content = _content(path)
    try:
        stored = _identify(content)
        stored.load()
    except Exception as error:
        raise InputError(f"cannot read the picture {path}: {_reason(error, content)}") from error
    return stored


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return a stored picture or mask turned as `orientation` says."""
    if orientation not in range(2, 9):
        return image
    plain = image.copy()
    plain.info = {}  # whose other notes may be broken
    plain.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(plain)


@cache
def formats() -> tuple[str, ...]:
    """Return the formats that are read here."""
    try:
        heif: Any = importlib.import_module("pillow_heif")
        heif.register_heif_opener()
    except ImportError:
        pass
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@cache
def suffixes() -> frozenset[str]:
    """Return the endings of the files that are read here, in lower case."""
    known = formats()
    return frozenset(
        ending.lower() for ending, name in Image.registered_extensions().items() if name in known
    )


def format_of(content: bytes) -> str:
    """Return Pillow's name of a picture's format, after a look at all of it.

    Raises:
        InputError: It holds no whole picture that is read.
    """
    try:
        stored = _identify(content)
        stored.load()
    except Exception as error:
        raise InputError(f"cannot be read as a picture: {_reason(error, content)}") from error
    return str(stored.format)


def _content(path: Path) -> bytes:
    if os.path.isdir(path):  # which says no to any name that no file system takes
        raise InputError(f"expected a picture, found the folder {path}; name its files, such as {path}/*.jpg")
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"expected a picture, found no regular file (a pipe or a device) at {path}")
            if status.st_size > MOST_BYTES:
                raise InputError(
                    f"cannot read the picture {path}: it is too large: more than {MOST_BYTES // 2**20} MiB; "
                    "store it smaller"
                )
            return file.read(status.st_size + 1)
    except FileNotFoundError as error:
        raise InputError(f"there is no picture {path}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read the picture {path}: {reason}") from error


def _identify(content: bytes) -> Image.Image:
    if not content:
        raise ValueError("the file is empty")
    # Only the first bytes are looked at, so the lock costs nothing. Pillow warns from half of the limit on.
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        stored = Image.open(io.BytesIO(content), formats=formats())
    if stored.width * stored.height > MOST_PIXELS:
        raise Image.DecompressionBombError
    return stored


def _decode(stored: Image.Image, digest: str) -> Picture:
    of_16_bits = has_16_bits(stored)
    stored.load()
    size, orientation = stored.size, stored.getexif().get(ExifTags.Base.Orientation, 1)
    image, notes = in_colours(stored, of_16_bits=of_16_bits)
    return Picture(upright(image, orientation), digest, size, orientation, notes)


def _reason(error: Exception, content: bytes) -> str:
    """Return why a picture cannot be read, and what to do."""
    if isinstance(error, Image.DecompressionBombError):
        return f"it is too large, more than {MOST_PIXELS // 10**6} million pixels; store it smaller"
    if not content:
        return "the file is empty"
    if isinstance(error, UnknownBrightnessError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        found = next((what for beginning, what in _BEGINNINGS if content.startswith(beginning)), "")
        if content[4:8] == b"ftyp":
            is_read = ("AVIF" if content[8:12] in (b"avif", b"avis") else "HEIF") in formats()
            found = "HEIF or AVIF" + (
                " that is not whole" if is_read else ", which pip install pillow-heif reads"
            )
        return f"expected {', '.join(formats())}, found {found or 'something else'}"
    return f"it is not whole or not sound ({type(error).__name__}: {error})".replace("\n", " ")


_TIFF = (b"II*\0", b"MM\0*")
_BEGINNINGS = (
    (b"%!PS", "PostScript, which is a program"),
    (b"\xc5\xd0\xd3\xc6", "PostScript, which is a program"),
    (b"%PDF", "a PDF"),
    (b"version https://git-lfs", "what Git LFS leaves in place of a file; git lfs pull fetches it"),
    (b"<", "a web page or a drawing (SVG)"),
    (b"PK", "an archive"),
    (b"8BPS", "a Photoshop document"),
    (b"\xff\xd8", "a JPEG that is not whole"),
    (b"\x89PNG", "a PNG that is not whole"),
    *((start, "a TIFF that is not whole, or of a depth or compression that is not read") for start in _TIFF),
)
"""What a file that is no picture begins with, and what it is then."""


class _Turns:
    """Lets threads in as long as they hold few pixels together, and anyone who comes alone."""

    def __init__(self, most: int) -> None:
        self.most, self.held, self.changed = most, 0, threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: not self.held or self.held + pixels <= self.most)
            self.held += pixels
        try:
            yield
        finally:
            with self.changed:
                self.held -= pixels
                self.changed.notify_all()


_turns = _Turns(PIXELS_AT_ONCE)
_opening = threading.Lock()
