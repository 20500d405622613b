"""The rows of the tables: a method's name, what it attaches to the model, and what it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import vitreg
from vitreg.errors import InputError
from vitreg.wording import nearest

Penalty = vitreg.ReadingPenalty | vitreg.ParameterPenalty

GRID = (0.1, 1.0, 10.0, 100.0)
"""The λ that the paper tries for GTA and, here, for every other guide of the source's features."""


@dataclass(frozen=True)
class Method:
    """How a row of a table is trained.

    Attributes:
        target: from λ to what `vitreg.attach` gets, or None: then there is no λ.
        grid: the λ that are tried where the best is sought.
        trains: the part of the model that is trained, beside the new head.
        transmix: whether pictures are mixed, and their labels weighted by the model's own attention.
        has_weight_decay: whether the optimiser decays the weights; a penalty on the weights takes its place.
    """

    target: Callable[[float], Penalty] | None = None
    grid: tuple[float, ...] = ()
    trains: Literal["attention", "ffn"] | None = None
    transmix: bool = False
    has_weight_decay: bool = True


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
    # The two other readings of Eq. (5).
    "GTA-sum-layers": Method(lambda lam: vitreg.GTA(lam=lam, reduction="sum_layers"), GRID),
    "GTA-sum": Method(lambda lam: vitreg.GTA(lam=lam, reduction="sum"), GRID),
}

METHODS: Mapping[str, Method] = {
    **_PLAIN,
    **{f"{name}+TransMix": replace(method, transmix=True) for name, method in _PLAIN.items()},
}
"""From the name in the paper's tables to the method; each can be combined with TransMix."""

SOURCE = "source"
"""The model before any training, as a row: only its attention can be measured, its head is new."""


def is_guided(method: str) -> bool:
    """Return whether a method has a λ."""
    return method in METHODS and METHODS[method].target is not None


def target_of(method: str, lam: float | None) -> Penalty | None:
    """Return what a method attaches, or None for one without a penalty."""
    build = METHODS[method].target
    return None if build is None or lam is None else build(lam)


def can_be_remembered(target: Penalty) -> bool:
    """Return whether what the source reads of a picture is small: attention, not all tokens."""
    return isinstance(target, vitreg.GTA)


def check_methods(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names as the tables write them, each once.

    Raises:
        InputError: A name is unknown.
    """
    known = {name.lower(): name for name in METHODS}
    found: list[str] = []
    for name in names:
        if name.lower() not in known:
            raise InputError(
                f"unknown method {name!r}{nearest(name, METHODS)} "
                f"(known: {', '.join(_PLAIN)}; each also with +TransMix)"
            )
        if known[name.lower()] not in found:
            found.append(known[name.lower()])
    return tuple(found)


BASELINE = "fine-tune"
