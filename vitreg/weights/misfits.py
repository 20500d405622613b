"""Which tensors do not fit the network that they are to be loaded into."""

from __future__ import annotations

from torch import Tensor

State = dict[str, Tensor]


def misfits(found: State, own: State) -> dict[str, list[str]]:
    """Return which tensors are missing, unexpected, or of another shape or type than the network's `own`."""
    both = [key for key in own if key in found]
    told = {
        "missing": [key for key in own if key not in found],
        "unexpected": [key for key in found if key not in own],
        "of another shape": [
            f"{key} {tuple(found[key].shape)} instead of {tuple(own[key].shape)}"
            for key in both
            if found[key].shape != own[key].shape
        ],
        # Whole numbers are quantised weights, whose scale nobody knows here.
        "of another type": [
            f"{key} {found[key].dtype} instead of {own[key].dtype}"
            for key in both
            if found[key].is_floating_point() != own[key].is_floating_point()
        ],
    }
    return {what: keys for what, keys in told.items() if keys}
