"""Whether what is remembered is of the picture, and of the source, that one has."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vitreg.errors import StateError
from vitreg.types import Tower

TOLERANCE = 1e-3
"""By how much a picture may differ from the one that is remembered: rounding on another device."""


def digest_of(tower: Tower) -> str:
    """Return what tells this source from others by its modules and weights; the head is never read."""
    digest = hashlib.sha256()
    heads = tuple(f"{head}." for head in tower.heads)
    for name, module in tower.module.named_modules():
        if not f"{name}.".startswith(heads):
            digest.update(f"{name} {type(module).__qualname__} {module.extra_repr()}".encode())
    for block in tower.blocks:
        digest.update(f"{block.name} {block.reading and block.reading.num_heads}".encode())
    for name, value in sorted(tower.module.state_dict().items()):
        if not name.startswith(heads):
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_same_pictures(known: Tensor, seen: Tensor, folder: Path | None) -> None:
    """Raise `StateError` unless the pictures are those that are remembered."""
    is_same = torch.isclose(known, seen, rtol=TOLERANCE, atol=TOLERANCE).all()
    message = "A view is not the picture that is remembered under its number"
    if is_same.device.type == "cuda":  # no transfer in the training loop
        torch._assert_async(is_same, message)
    elif not is_same:
        differing = int(((known - seen).abs().amax(1) > TOLERANCE).sum())
        place = f", in {folder}" if folder else ""
        raise StateError(
            f"{message} ({differing} of {len(seen)}{place}). Expected the same augmentation of the same "
            "picture each time: draw views by vitreg.Views, mix no pictures, and for other pictures or "
            "another augmentation delete the folder or use another path."
        )


def check_same_source(seen: Sequence[Tensor], known: Sequence[Tensor], folder: Path | None) -> None:
    """Raise `StateError` unless this source reads what another process has remembered of a picture.

    The folder's name tells sources apart by modules and weights, not by code.
    """
    for ours, theirs in zip(seen, known, strict=True):
        difference = (ours.float() - theirs.float()).abs().max()
        if difference > 0.02 * theirs.float().abs().max().clamp(min=1e-6):
            raise StateError(
                f"Expected in {folder} what this source reads, found values that differ by "
                f"{float(difference):.2g}: it was written by other code. Delete it, or choose another path."
            )
