"""Tensors that are remembered for each picture by number, in memory or on disk."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitreg.errors import ArgumentError
from vitreg.sources.row_files import RowFiles

PRINT_LENGTH = 256
"""How many values of a picture are kept to recognise it by."""


class RowCache:
    """A row of values for each picture by number, beside the print of the picture that it belongs to.

    In memory the rows lie on one device. In a folder other processes read and write them too: a row counts
    once its checksum fits, so one that was half written when a process died is merely missing.

    Args:
        size: the number of rows.
        shapes: of the values of a row, which are kept side by side.
        dtype: of the values.
        device: where they lie in memory.
        folder: where they lie on disk instead.
        facts: what the folder belongs to, written beside the rows.

    Attributes:
        foreign: the rows in use that another process has written, until `trust` is called.

    Raises:
        StateError: the folder cannot be written, or is damaged.
    """

    def __init__(
        self,
        size: int,
        shapes: Sequence[Sequence[int]],
        dtype: torch.dtype,
        device: torch.device,
        *,
        folder: Path | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.shapes = [tuple(shape) for shape in shapes]
        self._lengths = [prod(shape) for shape in self.shapes]
        self._known = bytearray(size)
        self.folder = folder
        self.foreign: set[int] = set()
        self._is_trusted = False
        self._files: RowFiles | None = None
        width = sum(self._lengths)
        if folder is None:
            self._prints = torch.zeros(size, PRINT_LENGTH, device=device)
            self._values = torch.zeros(size, width, dtype=dtype, device=device)
            return
        layout: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            "prints": (np.dtype(np.float32), (size, PRINT_LENGTH)),
            "values": (torch.empty(0, dtype=dtype).numpy().dtype, (size, width)),
            "checks": (np.dtype(np.uint32), (size,)),
        }
        self._files = RowFiles(folder, layout, {**(facts or {}), "shapes": self.shapes})
        self._prints, self._values = (
            torch.from_numpy(self._files.tables[name]) for name in ("prints", "values")
        )

    def missing(self, rows: Sequence[int]) -> list[int]:
        """Return the places in `rows` of those that are not known yet."""
        return [place for place, row in enumerate(rows) if not self._is_known(row)]

    def trust(self) -> None:
        """Take what other processes write from now on for what this one would have written."""
        self._is_trusted = True
        self.foreign.clear()

    def put(self, rows: Sequence[int], prints: Tensor, values: Sequence[Tensor]) -> None:
        """Remember `values`, [n, *shape] each, of pictures with `prints` [n, PRINT_LENGTH].

        Raises:
            ArgumentError: values that are not finite in the type in which they are kept.
            StateError: they cannot be written.
        """
        joined = torch.cat([value.flatten(1).to(self._values) for value in values], dim=1)
        if not torch.isfinite(joined).all():
            raise ArgumentError(
                f"Expected finite values to remember, found others as {joined.dtype}: use "
                "dtype=torch.float32, if the source itself is sound."
            )
        prints = prints.to(self._prints)
        if self._files is None:
            chosen = torch.tensor(rows, device=self._values.device)
            self._values[chosen], self._prints[chosen] = joined, prints
        else:
            for row, own, value in zip(rows, prints.numpy(), joined.numpy(), strict=True):
                self._files.write("values", row, value)
                self._files.write("prints", row, own)
                self._files.write("checks", row, np.array(_checksum(own, value), np.uint32))
        for row in rows:
            self._known[row] = True

    @property
    def nbytes(self) -> int:
        """How much memory the rows take; none on disk."""
        return self._values.nbytes + self._prints.nbytes if self._files is None else 0

    def get(self, rows: Sequence[int], device: torch.device) -> tuple[Tensor, list[Tensor]]:
        """Return prints [n, PRINT_LENGTH] and values [n, *shape] of `rows` on `device`."""
        if self._files is None and self._values.device != device:
            self._values, self._prints = self._values.to(device), self._prints.to(device)
        is_cuda = device.type == "cuda"  # others copy from memory that may be given back meanwhile
        chosen = torch.tensor(rows).to(self._values.device, non_blocking=self._values.is_cuda)
        tables = (self._prints, self._values)
        prints, values = (kept[chosen].to(device, non_blocking=is_cuda) for kept in tables)
        parts = values.split(self._lengths, dim=1)
        return prints, [p.reshape(-1, *shape) for p, shape in zip(parts, self.shapes, strict=True)]

    def _is_known(self, row: int) -> bool:
        if not self._known[row] and self._files is not None:  # another process may have read it
            tables = self._files.tables
            stored = int(tables["checks"][row])
            self._known[row] = stored == _checksum(tables["prints"][row], tables["values"][row])
            if self._known[row] and not self._is_trusted:
                self.foreign.add(row)
            if stored and not self._known[row]:
                warnings.warn(
                    f"Row {row} of {self._files.folder} is damaged, or just being written; it is read again.",
                    stacklevel=2,
                )
        return bool(self._known[row])


def _checksum(*parts: np.ndarray[Any, Any]) -> int:
    """Return a checksum that is never 0, which stands for no row."""
    check = 0
    for part in parts:
        check = zlib.crc32(part.tobytes(), check)
    return check or 1


def prints_of(images: Tensor) -> Tensor:
    """Return PRINT_LENGTH values of each image [b, c, height, width] to recognise it by, float32.

    Raises:
        ArgumentError: images smaller than that.
    """
    pixels = images.detach().flatten(1)
    if pixels.shape[1] < PRINT_LENGTH:
        raise ArgumentError(f"Expected images of at least {PRINT_LENGTH} values, found {pixels.shape[1]}.")
    return pixels[:, _places(pixels.shape[1], pixels.device)].float()


@lru_cache
def _places(count: int, device: torch.device) -> Tensor:
    """Return PRINT_LENGTH places in `count`, spread by the golden ratio so that no column is preferred."""
    spread = torch.arange(PRINT_LENGTH, dtype=torch.float64) * (5**0.5 - 1) / 2 % 1
    return (spread * count).long().to(device)
