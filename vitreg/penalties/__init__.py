"""Penalties: what it costs to leave the pre-trained model. Importing this package registers them."""

from importlib import import_module
from pkgutil import iter_modules

from vitreg.penalties.base import (
    GivenPenalty,
    ParameterPenalty,
    PassPenalty,
    Penalty,
    ReadingPenalty,
    check_lam,
    check_positive,
    list_penalties,
    penalties,
    register_penalty,
    weigh,
    weight_at,
)

__all__ = [
    "GivenPenalty",
    "ParameterPenalty",
    "PassPenalty",
    "Penalty",
    "ReadingPenalty",
    "check_lam",
    "check_positive",
    "list_penalties",
    "penalties",
    "register_penalty",
    "weigh",
    "weight_at",
]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")  # each file registers its own penalty
