"""The rows of the tables: a method's name, what it attaches to the model, and what it trains."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import vitreg
from vitreg.errors import InputError
from vitreg.train.training.composition import GRID as GRID
from vitreg.train.training.composition import PLAIN, Penalty, compose
from vitreg.train.training.composition import Method as Method


def _around(default: float) -> tuple[float, ...]:
    """Return what the paper tries for a rival whose authors use `default`: {0.1c, c, 10c}."""
    return default / 10, default, default * 10


_PLAIN = {
    "fine-tune": Method(),
    # NOTE[DIFF]: the paper does not say whether its AdamW goes on decaying the weights beside L2-SP; the
    # method's authors switch it off. Their α/β of 10 is kept for all λ.
    "L2-SP": Method(lambda lam: vitreg.L2SP(lam=lam), _around(0.1), has_weight_decay=False),
    "BSS": Method(lambda lam: vitreg.BSS(lam=lam), _around(1e-3)),
    "attention-only": Method(trains="attention"),
    "ffn-only": Method(trains="ffn"),
    "block-output": Method(lambda lam: vitreg.FeatureGuide("block_output", lam=lam), GRID),
    "msa-output": Method(lambda lam: vitreg.FeatureGuide("msa_output", lam=lam), GRID),
    "GTA": Method(lambda lam: vitreg.GTA(lam=lam), GRID),
    "attention-KL": Method(lambda lam: vitreg.AttentionKL(lam=lam), GRID),
    "LDIFS": Method(lambda lam: vitreg.LDIFS(lam=lam), _around(0.04)),
    "Gram-anchor": Method(lambda lam: vitreg.GramAnchor(lam=lam), GRID),
    "DELTA": Method(lambda lam: vitreg.DELTA(lam=lam), _around(0.64)),
    # The source is the model as training starts, so the head is the one that it starts with: the probe's.
    "LwF": Method(lambda lam: vitreg.LwF(lam=lam), _around(0.25)),
    "Co-tuning": Method(lambda lam: vitreg.CoTuning(lam=lam), _around(2.3)),
    "R-Drop": Method(lambda lam: vitreg.RDrop(lam=lam), _around(1.0)),
    # Nobody published a λ for it: these are the paper's for a guide of the attention.
    "object-guide": Method(lambda lam: vitreg.ObjectGuide(lam=lam), GRID),
    # The two other readings of Eq. (5).
    "GTA-sum-layers": Method(lambda lam: vitreg.GTA(lam=lam, reduction="sum_layers"), GRID),
    "GTA-sum": Method(lambda lam: vitreg.GTA(lam=lam, reduction="sum"), GRID),
    # Not in the paper:
    "layer-decay": Method(layer_decay=0.75),
    # Adapters take a larger learning rate than the weights: 1e-3 to 5e-3 where these take 1e-4.
    "LoRA": Method(adapters=True, lr_factor=10.0),
}

_BESIDE = {
    # SPD takes the place of weight decay. The radius of a ball is 1 / λ, so that a larger λ holds more.
    "SPD": Method(projection=lambda lam: vitreg.SPD(), has_weight_decay=False),
    "FTP": Method(projection=lambda lam: vitreg.FTP()),
    "MARS": Method(projection=lambda lam: vitreg.MARS(radius=1 / lam if lam else math.inf), grid=GRID),
    "L2Ball": Method(projection=lambda lam: vitreg.L2Ball(radius=1 / lam if lam else math.inf), grid=GRID),
    "TransMix": Method(transmix=True),
    "LP-FT": Method(head="probe"),
    "WiSE-FT": Method(head="probe", alpha=0.5),
    "linear-probe": Method(head="probe", is_trained=False),
}


class _Methods(dict[str, Method]):
    """The rows that were foreseen; any other combination of parts is composed when it is asked for."""

    def __missing__(self, name: str) -> Method:
        return compose(name, {**_PLAIN, **_BESIDE})[1]


METHODS = _Methods()
"""From a name to the method: `in` and iteration know those of the tables, `[…]` all that can be composed."""


def _foresee(*names: str) -> None:
    """Add parts as rows: alone, with TransMix, and each as LP-FT."""
    mixed = [f"{name}+TransMix" for name in names]
    for row in (*names, *mixed, *(f"LP-FT+{name}" for name in (*names, *mixed))):
        name, method = compose(row, {**_PLAIN, **_BESIDE})
        METHODS[name] = method


DEMANDING = ("Co-tuning", "R-Drop", "object-guide")
"""What not every run can have: the source's own head, something that is dropped, outlines of objects."""

_foresee(*(name for name in _PLAIN if name not in DEMANDING), "LoRA+GTA")
METHODS |= {name: METHODS[name] for name in ("linear-probe", "WiSE-FT", "WiSE-FT+GTA")}
METHODS |= {name: METHODS[name] for part in DEMANDING for name in (part, f"LP-FT+{part}")}

_plugin = ""
"""The hash of the file whose rows are being registered."""


@contextmanager
def brought_by(plugin: str) -> Iterator[None]:
    """Note on each row that is registered inside that a file with this hash brings it."""
    global _plugin
    before, _plugin = _plugin, plugin
    try:
        yield
    finally:
        _plugin = before


def register_method(
    name: str,
    target: Callable[[float], Penalty] | None = None,
    *,
    grid: tuple[float, ...] = GRID,
    trains: Literal["attention", "ffn"] | None = None,
    has_weight_decay: bool = True,
) -> None:
    """Add a row that tables and `vitreg finetune` know by `name`, alone, with TransMix and as LP-FT.

    Args:
        name: of the row, in letters, digits and hyphens.
        target: from λ to the penalty that `vitreg.attach` gets; without it the row has no λ.
        grid: the λ that are tried where the best is sought.
        trains: the part of the model that is trained, beside the new head; by default all of it.
        has_weight_decay: whether the optimiser decays the weights.

    Raises:
        InputError: The name is taken or not of that form, or `target` does not return a penalty.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name) or name.lower() in map(str.lower, METHODS):
        raise InputError(f"expected a new name in letters, digits and hyphens for a row, found {name!r}")
    if target is not None and not isinstance(found := target(grid[0]), Penalty):
        raise InputError(f"{name}: expected a penalty from target({grid[0]:g}), found {type(found).__name__}")
    grid = grid if target else ()
    _PLAIN[name] = Method(target, grid, trains=trains, has_weight_decay=has_weight_decay, plugin=_plugin)
    _foresee(name)


SOURCE = "source"
"""The model before any training, as a row: only its attention can be measured, its head is new."""


def guide_of(method: str) -> str:
    """Return the row of the guide that a method uses along with other things: "GTA" of "LP-FT+GTA+TransMix".

    A method without one is returned as it is.
    """
    parts = [part for part in method.split("+") if part in _PLAIN and part != "LoRA"]
    return next((part for part in parts if _PLAIN[part].target), parts[0] if parts else method)


def is_guided(method: str) -> bool:
    """Return whether a method has a λ."""
    return method != SOURCE and bool(METHODS[method].grid)


def usual_lam(method: str) -> float:
    """Return the λ of a guided method where none is given: in the middle of its grid, 1 for the guides."""
    grid = METHODS[method].grid
    return grid[(len(grid) - 1) // 2]


def target_of(method: str, lam: float | None) -> Penalty | None:
    """Return what a method attaches, or None for one without a penalty."""
    build = METHODS[method].target
    return None if build is None or lam is None else build(lam)


def can_be_remembered(target: Penalty) -> bool:
    """Return whether what the source reads of a picture is small: attention, not all tokens."""
    return isinstance(target, vitreg.GTA | vitreg.AttentionKL)


def check_methods(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names as they are stored, each once, whatever the order of their parts.

    Raises:
        InputError: A name is unknown, or its parts cannot be combined.
    """
    return tuple(dict.fromkeys(compose(name, {**_PLAIN, **_BESIDE})[0] for name in names))


BASELINE = PLAIN
