"""One reading of a picture: depths, transparency, turns, formats, sizes, and what is no picture."""

from __future__ import annotations

import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, features

from vitreg.errors import InputError
from vitreg.pictures import reading
from vitreg.pictures.reading import opened_picture, read_picture, suffixes


def noise(height: int = 12, width: int = 10, bands: int = 3) -> np.ndarray:
    shape = (height, width) if bands == 1 else (height, width, bands)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_eight_bits_are_what_pillow_makes_of_them(tmp_path: Path) -> None:
    coloured = Image.fromarray(noise())
    for mode, suffix in (("RGB", "png"), ("L", "png"), ("P", "gif"), ("CMYK", "jpg"), ("1", "tiff")):
        path = tmp_path / f"{mode}.{suffix}"
        coloured.convert(mode).save(path)
        with Image.open(path) as stored:
            assert np.array_equal(read_picture(path), stored.convert("RGB"))


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm", "jp2"])
def test_sixteen_bits_keep_their_brightness(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    path = tmp_path / f"deep.{suffix}"
    picture = Image.fromarray(values)
    picture.save(path, **({"irreversible": False} if suffix == "jp2" else {}))
    found = np.asarray(read_picture(path))
    assert np.abs(found[..., 0].astype(int) - values.astype(int) // 257).max() <= 1
    with opened_picture(path) as opened:
        assert opened.notes == ("16 bits",)


def test_a_file_that_notes_another_depth_or_that_white_is_zero(tmp_path: Path) -> None:
    values = np.linspace(0, 4095, 64, dtype=np.uint16).reshape(8, 8)
    (tmp_path / "twelve.pgm").write_bytes(b"P5 8 8 4095\n" + values.astype(">u2").tobytes())
    found = np.asarray(read_picture(tmp_path / "twelve.pgm"))[..., 0]
    assert (found.min(), found.max()) == (0, 255)
    deep = Image.fromarray(values * 16)
    deep.save(tmp_path / "white.tiff", tiffinfo={262: 0})
    with Image.open(tmp_path / "white.tiff") as stored:
        assert stored.tag_v2[262] == 0
    assert np.asarray(read_picture(tmp_path / "white.tiff"))[0, 0, 0] == 255


@pytest.mark.parametrize(
    ("values", "suffix"),
    [
        (np.full((4, 4), 3000, np.uint16), "png"),  # 12 bits in 16
        (np.full((4, 4), 255, np.uint16), "tiff"),
        (np.full((4, 4), 70000, np.int32), "tiff"),
        (np.full((4, 4), 0.5, np.float32), "tiff"),
    ],
)
def test_a_brightest_value_that_nobody_knows_is_refused(
    tmp_path: Path, values: np.ndarray, suffix: str
) -> None:
    Image.fromarray(values).save(tmp_path / f"p.{suffix}")
    with pytest.raises(InputError, match=rf"p\.{suffix}.*brightest value.*8 bits|8 or 16 bits"):
        read_picture(tmp_path / f"p.{suffix}")


@pytest.mark.parametrize("opacity", [0, 1])
def test_what_is_transparent_everywhere_is_refused(tmp_path: Path, opacity: int) -> None:
    pixels = np.dstack([noise(), np.full((12, 10), opacity, np.uint8)])
    Image.fromarray(pixels).save(tmp_path / "p.png")
    with pytest.raises(InputError, match="transparent everywhere; store it without transparency"):
        read_picture(tmp_path / "p.png")


def test_signed_numbers_are_no_levels(tmp_path: Path) -> None:
    signed = {339: 2}
    Image.fromarray(noise(bands=1)).save(tmp_path / "p.tiff", tiffinfo=signed)
    with pytest.raises(InputError, match="brightest value is not known"):
        read_picture(tmp_path / "p.tiff")


def test_literal_values_of_sixteen_bits(tmp_path: Path) -> None:
    """Dark and bright scans stay apart: each value of 65535 is the same share of 255, rounded down."""
    for name, low in (("dark", 9000), ("bright", 40000)):
        values = (low + np.random.default_rng(0).integers(0, 3000, (6, 5))).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        found = np.asarray(read_picture(tmp_path / f"{name}.png"))
        for row in range(6):
            for column in range(5):
                level = int(values[row, column]) * 255 // 65535
                assert found[row, column].tolist() == [level, level, level]
        assert low * 255 // 65535 <= found.min() <= found.max() <= (low + 3000) * 255 // 65535


def first_frame(path: Path) -> np.ndarray:
    with Image.open(path) as stored:
        stored.seek(0)
        return np.asarray(stored.convert("RGB"))


@pytest.mark.parametrize("name", ["p.gif", "p.webp", "p.png", "p.mpo", "p.jpg"])
def test_of_several_frames_the_first_is_read(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    form = {"p.jpg": "MPO"}.get(name)
    frames[0].save(tmp_path / name, format=form, save_all=True, append_images=frames[1:])
    found = np.asarray(read_picture(tmp_path / name))
    assert np.array_equal(found, first_frame(tmp_path / name))
    assert found[4, 4, 0] > 250 > 5 > found[4, 4, 1]


def test_heic_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    assert {".heic", ".heif"} <= suffixes()
    stored = Image.fromarray(np.kron(noise(4, 6), np.ones((16, 16, 1), np.uint8)))
    heif.from_pillow(stored).save(tmp_path / "p.heic", quality=-1)
    found = np.asarray(read_picture(tmp_path / "p.heic")).astype(int)
    assert np.abs(found - np.asarray(stored)).max() <= 3
    content = (tmp_path / "p.heic").read_bytes()
    (tmp_path / "cut.heic").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="not whole"):
        read_picture(tmp_path / "cut.heic")


def png_of_16_bits(values: np.ndarray) -> bytes:
    """Return a PNG of 16 bits in three channels, which Pillow reads and does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        sums = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + sums

    height, width, _ = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_sixteen_bits_in_three_channels(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(png_of_16_bits(np.full((4, 5, 3), 40000, np.uint16)))
    assert (np.asarray(read_picture(path)) == 40000 // 256).all()
    path.write_bytes(png_of_16_bits(np.full((4, 5, 3), 4000, np.uint16)))  # 12 bits in 16: it would be black
    with pytest.raises(InputError, match=r"brightest value is \d+ of 65535"):
        read_picture(path)


@pytest.mark.parametrize(("colour", "ground"), [(0, 255), (250, 0), (120, 255)])
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_what_is_transparent_does_not_hide_the_shape(
    tmp_path: Path, colour: int, ground: int, suffix: str
) -> None:
    pixels = np.full((8, 8, 4), colour, np.uint8)
    pixels[..., 3] = 0
    pixels[2:5, 2:5, 3] = 255
    Image.fromarray(pixels).save(tmp_path / f"p.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    found = np.asarray(read_picture(tmp_path / f"p.{suffix}"))
    assert (found[3, 3] == colour).all()
    assert (found[0, 0] == ground).all()


def test_transparency_by_colour_and_by_palette(tmp_path: Path) -> None:
    grey = Image.fromarray(np.array([[0, 200]], np.uint8))
    grey.save(tmp_path / "grey.png", transparency=0)
    assert np.asarray(read_picture(tmp_path / "grey.png"))[0, :, 0].tolist() == [255, 200]
    deep = Image.fromarray(np.array([[5, 50000]], np.uint16))
    deep.save(tmp_path / "deep.png", transparency=5)
    assert np.asarray(read_picture(tmp_path / "deep.png"))[0, :, 0].tolist() == [255, 50000 // 257]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette = palette.convert("P")
    palette.putpalette([10, 10, 10, 90, 90, 90])
    palette.save(tmp_path / "p.png", transparency=bytes([0, 255]))
    assert np.asarray(read_picture(tmp_path / "p.png"))[0, :, 0].tolist() == [255, 90]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_pictures_stand_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(noise()).save(tmp_path / f"p.{suffix}", exif=exif)
    with Image.open(tmp_path / f"p.{suffix}") as stored:
        expected = ImageOps.exif_transpose(stored).convert("RGB")
    assert np.array_equal(read_picture(tmp_path / f"p.{suffix}"), expected)


def test_formats_are_those_that_pillow_reads_and_runs_nothing_for() -> None:
    assert {".jpg", ".jpeg", ".jfif", ".png", ".gif", ".webp", ".tif", ".bmp"} <= suffixes()
    assert (".avif" in suffixes()) == features.check("avif")
    assert not {".eps", ".ps", ".pdf", ".wmf"} & suffixes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "PostScript, which is a program"),
        (b"\xc5\xd0\xd3\xc6" + bytes(40), "PostScript"),
        (b"", "the file is empty"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (
            b"\0\0\0\x18ftypheic" + bytes(40),
            "HEIF or AVIF(, which pip install pillow-heif| that is not)",
        ),
        (b"\xff\xd8", "found a JPEG that is not whole"),
        (b"II*\0" + bytes(40), "found a TIFF that is not whole, or of a depth"),
        (b"nothing", "found something else"),
    ],
)
def test_what_is_no_picture_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "p.jpg").write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_picture(tmp_path / "p.jpg")
    assert "\n" not in str(caught.value)


def test_a_pipe_and_a_device_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        with pytest.raises(InputError, match="no regular file"):
            read_picture(tmp_path / name)


def test_too_many_pixels_or_bytes_are_not_called_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (16320, 12240)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match="too large, more than 178 million pixels; store it smaller"):
        read_picture(tmp_path / "large.png")
    Image.fromarray(noise(50, 30)).save(tmp_path / "half.png")
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # from which on Pillow warns
        assert read_picture(tmp_path / "half.png").size == (30, 50)
    monkeypatch.setattr(reading, "MOST_BYTES", 100)
    with pytest.raises(InputError, match="too large: more than"):
        read_picture(tmp_path / "large.png")


def test_few_large_pictures_are_held_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_turns", reading._Turns(250))
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        Image.fromarray(noise()).save(path)  # 120 pixels: two at once
    held, most, lock = 0, 0, threading.Lock()

    def hold(path: Path) -> None:
        nonlocal held, most
        with opened_picture(path):
            with lock:
                held += 1
                most = max(most, held)
            threading.Event().wait(0.02)
            with lock:
                held -= 1

    threads = [threading.Thread(target=hold, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, held, reading._turns.held) == (2, 0, 0)
    Image.fromarray(noise(40, 40)).save(paths[0])
    assert read_picture(paths[0]).size == (40, 40)  # larger than all that is held at once: alone
