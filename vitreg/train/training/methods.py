"""The rows of the tables: a method's name, what it attaches to the model, and what it trains."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
        head: the head that training starts from: a new one with random weights, or the linear probe of the
            run's training pictures.
        is_trained: whether anything is trained by gradients after that.
        layer_decay: by what the learning rate falls from each layer to the one before it; 1 for not at all.
        adapters: whether the blocks are trained through low-rank adapters, which are merged at the end; the
            source is then the model without them.
        alpha: the share of the trained weights in the mean with those that training started from.
        lr_factor: by what the learning rate of the table is multiplied.
        plugin: the hash of the file that brought the row; nothing for our own.
    """

    target: Callable[[float], Penalty] | None = None
    grid: tuple[float, ...] = ()
    trains: Literal["attention", "ffn"] | None = None
    transmix: bool = False
    has_weight_decay: bool = True
    head: Literal["new", "probe"] = "new"
    is_trained: bool = True
    layer_decay: float = 1.0
    adapters: bool = False
    alpha: float = 1.0
    lr_factor: float = 1.0
    plugin: str = ""


def _around(default: float) -> tuple[float, ...]:
    """Return what the paper tries for a rival whose authors use `default`: {0.1c, c, 10c}."""
    return default / 10, default, default * 10


def _from_probe(name: str) -> str:
    """Return what a method is called that starts from the linear probe's head (LP-FT)."""
    return "LP-FT" + f"+{name}".removeprefix("+fine-tune")


# Adapters take a larger learning rate than the weights: 1e-3 to 5e-3 where these take 1e-4.
_LORA = Method(adapters=True, lr_factor=10.0)

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
    "LDIFS": Method(lambda lam: vitreg.LDIFS(lam=lam), _around(10.0)),
    "Gram-anchor": Method(lambda lam: vitreg.GramAnchor(lam=lam), GRID),
    "DELTA": Method(lambda lam: vitreg.DELTA(lam=lam), _around(0.01)),
    # The source is the model as training starts, so the head is the one that it starts with: the probe's.
    "LwF": Method(lambda lam: vitreg.LwF(lam=lam), _around(1.0)),
    # The two other readings of Eq. (5).
    "GTA-sum-layers": Method(lambda lam: vitreg.GTA(lam=lam, reduction="sum_layers"), GRID),
    "GTA-sum": Method(lambda lam: vitreg.GTA(lam=lam, reduction="sum"), GRID),
    # Not in the paper:
    "layer-decay": Method(layer_decay=0.75),
    "LoRA": _LORA,
    "LoRA+GTA": replace(_LORA, target=lambda lam: vitreg.GTA(lam=lam), grid=GRID),
}

_FROM_NEW_HEAD = {
    **_PLAIN,
    **{f"{name}+TransMix": replace(method, transmix=True) for name, method in _PLAIN.items()},
}

_WISE = Method(head="probe", alpha=0.5)

METHODS: dict[str, Method] = {
    **_FROM_NEW_HEAD,
    **{_from_probe(name): replace(method, head="probe") for name, method in _FROM_NEW_HEAD.items()},
    "linear-probe": Method(head="probe", is_trained=False),
    "WiSE-FT": _WISE,
    "WiSE-FT+GTA": replace(_WISE, target=lambda lam: vitreg.GTA(lam=lam), grid=GRID),
}
"""From the name in the paper's tables to the method; each can be combined with TransMix and with LP-FT."""

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
    own = Method(target, grid if target else (), trains, has_weight_decay=has_weight_decay, plugin=_plugin)
    _PLAIN[name] = own
    for row, method in ((name, own), (f"{name}+TransMix", replace(own, transmix=True))):
        METHODS[row] = method
        METHODS[_from_probe(row)] = replace(method, head="probe")


SOURCE = "source"
"""The model before any training, as a row: only its attention can be measured, its head is new."""


_BESIDE = {"TransMix", "LP-FT", "LoRA", "WiSE-FT"}


def guide_of(method: str) -> str:
    """Return the row of the guide that a method uses along with other things: "GTA" of "LP-FT+GTA+TransMix".

    A method without one is returned as it is.
    """
    return next((part for part in method.split("+") if part not in _BESIDE), method)


def is_guided(method: str) -> bool:
    """Return whether a method has a λ."""
    return method in METHODS and METHODS[method].target is not None


def target_of(method: str, lam: float | None) -> Penalty | None:
    """Return what a method attaches, or None for one without a penalty."""
    build = METHODS[method].target
    return None if build is None or lam is None else build(lam)


def can_be_remembered(target: Penalty) -> bool:
    """Return whether what the source reads of a picture is small: attention, not all tokens."""
    return isinstance(target, vitreg.GTA | vitreg.AttentionKL)


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
                f"(known: {', '.join(_PLAIN)}; each also with +TransMix, and as LP-FT or LP-FT+… from the "
                "linear probe's head; linear-probe, WiSE-FT, WiSE-FT+GTA)"
            )
        if known[name.lower()] not in found:
            found.append(known[name.lower()])
    return tuple(found)


BASELINE = "fine-tune"
