"""A stored picture in red, green and blue of 8 bits, whatever its depth and transparency."""

from __future__ import annotations

import numpy as np
from PIL import Image

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""TIFF's tags of the depth, of what 0 means, and of signs; the next two are values of the last two."""
_WHITE_IS_ZERO, _SIGNED = 0, 2
_SCALED_BY_PILLOW = ("PPM", "JPEG2000")
"""Formats that note the brightest value, which Pillow scales to that of 16 bits."""
_LEAST_CONTRAST = 16
"""Levels of 255 below which nothing is seen."""


class UnknownBrightnessError(ValueError):
    """Nobody knows which value of a picture is the brightest, or nothing of it is to be seen."""


def has_16_bits(stored: Image.Image) -> bool:
    """Return whether the file of a picture that is not decoded yet has 16 bits a channel."""
    return any(";16" in repr(tile[3]) for tile in getattr(stored, "tile", ()))


def in_colours(stored: Image.Image, *, of_16_bits: bool = False) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the picture in mode RGB, and what was done to its pixels beyond Pillow's own conversion.

    16 bits are scaled so that the brightest value stays the brightest. What is transparent lies on white, or
    on black where nothing could be seen on white.

    Args:
        stored: the picture, decoded.
        of_16_bits: whether its file has 16 bits a channel, of which Pillow keeps the upper 8 where there are
            several channels.

    Raises:
        UnknownBrightnessError: It has 32 bits, signs, or fewer bits than its file says, or is transparent
            everywhere.
    """
    if stored.mode.startswith("I;16") or (stored.mode == "I" and stored.format in ("PNG", "PPM")):
        return _of_16_bits(stored), ("16 bits",)
    if stored.mode in ("I", "F") or _SIGNED in getattr(stored, "tag_v2", {}).get(_SAMPLE_FORMAT, ()):
        raise UnknownBrightnessError(
            f"its brightest value is not known (mode {stored.mode}); store it with 8 or 16 bits a channel"
        )
    if of_16_bits:
        _check_range(int(np.asarray(stored.convert("RGB")).max()) * 256)
    if not stored.has_transparency_data:
        return stored.convert("RGB"), ()
    layer = (stored.convert("LA") if stored.mode == "La" else stored).convert("RGBA")
    alpha = np.asarray(layer.getchannel("A"))
    if alpha.min() == 255:
        return layer.convert("RGB"), ()
    if alpha.max() < _LEAST_CONTRAST:
        raise UnknownBrightnessError("it is transparent everywhere; store it without transparency")
    shown = _on("white", layer)
    if alpha.min() < alpha.max() and _contrast(shown) < _LEAST_CONTRAST:
        shown = _on("black", layer)
    return shown, ("transparent",)


def _of_16_bits(stored: Image.Image) -> Image.Image:
    values = np.asarray(stored).astype(np.uint32)
    tags = getattr(stored, "tag_v2", {})
    depth = tags.get(_BITS_PER_SAMPLE, 16)
    brightest = 2 ** int(depth[0] if isinstance(depth, tuple) else depth) - 1
    if brightest == 65535 and stored.format not in _SCALED_BY_PILLOW:
        _check_range(int(values.max()))
    levels = (values * 255 // brightest).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = 255 - levels
    clear = stored.info.get("transparency")
    if isinstance(clear, int):  # the one value that a PNG calls transparent
        levels = np.where(values == clear, 255, levels).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")


def _check_range(highest: int) -> None:
    if 0 < highest < 4096:  # 12 bits in 16, a dark picture, or a depth map: only its owner knows
        raise UnknownBrightnessError(
            f"its brightest value is {highest} of 65535, as if fewer than 16 bits were stored in 16; "
            "scale the values to the whole range, or store it with 8 bits"
        )


def _on(ground: str, layer: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", layer.size, ground), layer).convert("RGB")


def _contrast(picture: Image.Image) -> int:
    """Return the difference of the brightest and the darkest level, of the channel where it is largest."""
    values = np.asarray(picture).reshape(-1, 3)
    return int(max(values.max(0) - values.min(0)))
