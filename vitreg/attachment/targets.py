"""From what a user passes as `target` to named penalties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from vitreg.errors import ArgumentError
from vitreg.extractors import extractors
from vitreg.penalties import Penalty, penalties
from vitreg.penalties.feature_guide import FeatureGuide
from vitreg.penalties.gta import GTA
from vitreg.registry import suggest
from vitreg.wording import type_and_value

Target: TypeAlias = "str | Penalty | Sequence[str | Penalty] | Mapping[str, str | Penalty]"
"""An extractor's or a penalty's name, a penalty, a sequence of these, or a mapping from your own names."""


def resolve_target(
    target: Target, options: Mapping[str, Any], *, keeps_lam: bool = True
) -> dict[str, Penalty]:
    """Return the penalties that `target` means, by the names under which they are reported.

    Args:
        target: see `Target`.
        options: layers, query and reduction for a target that is given by name.
        keeps_lam: whether a target given by name keeps the weight that its authors use, rather than 1.

    Raises:
        ArgumentError: an unknown name, nothing at all, two penalties of one name, or options beside a
            penalty that carries its own.
    """
    if isinstance(target, Mapping):
        named = {name: _penalty(entry, options, keeps_lam) for name, entry in target.items()}
        for name in named:
            if not isinstance(name, str) or not name:
                raise ArgumentError(f"A penalty's name is a string, got {name!r}.")
    else:
        entries = [target] if isinstance(target, str | Penalty | type) else target
        if not isinstance(entries, Sequence):
            raise ArgumentError(
                "target must be a name, a penalty, or a sequence or mapping of these, got "
                f"{type(target).__name__}."
            )
        named = {}
        for entry in entries:
            penalty = _penalty(entry, options, keeps_lam)
            name = entry if isinstance(entry, str) else penalty.name
            if name in named:
                raise ArgumentError(
                    f"Two penalties are called {name!r}. Give them names: target={{'first': …, 'second': …}}."
                )
            named[name] = penalty
    if not named:
        raise ArgumentError("target is empty: name at least one penalty.")
    return named


def _penalty(entry: object, options: Mapping[str, Any], keeps_lam: bool) -> Penalty:
    if isinstance(entry, Penalty):
        if options:
            raise ArgumentError(
                f"{', '.join(options)} belong to the penalty when target is one: "
                f"{type(entry).__name__}({', '.join(f'{k}={v!r}' for k, v in options.items())})."
            )
        return entry
    if isinstance(entry, type) and issubclass(entry, Penalty):
        raise ArgumentError(f"target takes a penalty, not its class: write {entry.__name__}().")
    if not isinstance(entry, str):
        raise ArgumentError(f"A penalty is given as such or by name, got {type_and_value(entry)}.")
    if not keeps_lam:
        options = {**options, "lam": 1.0}
    if entry in extractors:
        return GTA(**options) if entry == "attn_logits" else FeatureGuide(entry, **options)
    if entry in penalties:
        try:
            return penalties[entry](**options)
        except TypeError as error:
            raise ArgumentError(
                f"The penalty {entry!r} cannot be made from {dict(options)}: {error}."
            ) from error
    raise ArgumentError(
        f"There is no extractor or penalty {entry!r}. "
        f"{suggest(entry, [*extractors.names(), *penalties.names()])}"
    )
