"""What a row of a table is, and how one is composed of parts: "LP-FT+GTA+SPD"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

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
        target: from λ to what `vitreg.attach` gets, or None.
        grid: the λ that are tried where the best is sought; nothing for a method without λ.
        trains: the part of the model that is trained, beside the new head.
        transmix: whether pictures are mixed, and their labels weighted by the model's own attention.
        projection: from λ to what pulls the weights back after each step, or None.
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
    projection: Callable[[float], vitreg.Projection] | None = None
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


PLAIN = "fine-tune"
"""The part that adds nothing."""

_FIELD_OF = {
    "head": "head",
    "interpolation": "alpha",
    "adapters": "adapters",
    "part of the model": "trains",
    "rates by layer": "layer_decay",
    "penalty": "target",
    "projection": "projection",
    "mixing": "transmix",
}
"""The kinds of part, in the order in which a name is written, and the setting that tells each."""

_REFUSED = {
    ("adapters", "part of the model"): "adapters leave all weights frozen",
    ("adapters", "rates by layer"): "adapters have one learning rate",
}
"""The pairs of kinds that cannot be combined, and why; all others can."""


def needs_masks(target: Penalty | None) -> bool:
    """Return whether a penalty has to be told where the objects are."""
    return isinstance(target, vitreg.GivenPenalty) and target.needs == "masks"


def settings_of(part: Method) -> dict[str, Any]:
    """Return what a part sets, by the name of the field."""
    usual = vars(Method())
    return {name: value for name, value in vars(part).items() if value != usual[name]}


def kinds_of(part: Method) -> list[str]:
    """Return the kinds of what a part sets, in the order in which names are written."""
    return [kind for kind, field in _FIELD_OF.items() if field in settings_of(part)]


def compose(name: str, parts: Mapping[str, Method]) -> tuple[str, Method]:
    """Return a method's canonical name, and the method, from the names of its parts joined by "+".

    The order of the parts does not matter, nor upper and lower case. "fine-tune" adds nothing.

    Raises:
        InputError: A part is unknown or there twice, or two of them cannot be combined.
    """
    spelt = {known.lower(): known for known in parts}
    names: list[str] = []
    for part in (part.strip() for part in name.split("+")):
        if part.lower() not in spelt:
            where = "" if part == name else f" in {name!r}"
            raise InputError(
                f"unknown method {part!r}{where}{nearest(part, parts)} (known: {', '.join(parts)}; joined by "
                "+ in any order)"
            )
        if spelt[part.lower()] in names:
            raise InputError(f"{name}: {spelt[part.lower()]} is there twice; name it once")
        names.append(spelt[part.lower()])
    chosen = [part for part in names if part != PLAIN]
    if "WiSE-FT" in chosen and "LP-FT" in chosen:  # which starts there anyway
        chosen.remove("LP-FT")
    chosen.sort(key=lambda part: [list(_FIELD_OF).index(kind) for kind in kinds_of(parts[part])][-1:])
    of_kind: dict[str, str] = {}
    for part in chosen:
        if len(chosen) > 1 and not parts[part].is_trained:
            raise InputError(f"{name}: {part} trains nothing by gradients; nothing can be added to it")
        for kind in kinds_of(parts[part]):
            if kind in of_kind:
                raise InputError(f"{name}: {of_kind[kind]} and {part} are both the {kind}; name one")
            of_kind[kind] = part
    _check_pairs(name, of_kind, parts)
    method = Method()
    for part in chosen:
        method = replace(method, **settings_of(parts[part]))
    if chosen in ([], ["TransMix"]):
        chosen = [PLAIN, *chosen]
    return "+".join(chosen), method


def _check_pairs(name: str, of_kind: Mapping[str, str], parts: Mapping[str, Method]) -> None:
    for (one, other), reason in _REFUSED.items():
        if one in of_kind and other in of_kind:
            raise InputError(f"{name}: {of_kind[one]} and {of_kind[other]} cannot be combined: {reason}")
    penalty, projection = of_kind.get("penalty"), of_kind.get("projection")
    if penalty and projection and parts[projection].grid:
        raise InputError(
            f"{name}: {penalty} and {projection} cannot be combined: each has a λ of its own, and a row has "
            "one; SPD and FTP have none"
        )
    build = parts[penalty].target if penalty else None
    target = build(1.0) if build else None
    if "mixing" in of_kind and (isinstance(target, vitreg.PassPenalty) or needs_masks(target)):
        reason = "two passes" if isinstance(target, vitreg.PassPenalty) else "the objects of two pictures"
        raise InputError(f"{name}: {penalty} cannot be combined with mixed pictures, which have {reason}")
    if "adapters" in of_kind and isinstance(target, vitreg.ParameterPenalty):
        raise InputError(
            f"{name}: {of_kind['adapters']} and {penalty} cannot be combined: the weights that {penalty} "
            "holds are frozen beside adapters"
        )
