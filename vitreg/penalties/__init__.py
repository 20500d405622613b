"""Penalties: what it costs to leave the pre-trained model. Importing this package registers them."""

from vitreg.penalties.base import (
    ParameterPenalty,
    Penalty,
    ReadingPenalty,
    check_lam,
    lam_at,
    list_penalties,
    penalties,
    register_penalty,
)
from vitreg.penalties.bss import BSS
from vitreg.penalties.feature_guide import FeatureGuide
from vitreg.penalties.gta import GTA
from vitreg.penalties.l2sp import L2SP

__all__ = [
    "BSS",
    "GTA",
    "L2SP",
    "FeatureGuide",
    "ParameterPenalty",
    "Penalty",
    "ReadingPenalty",
    "check_lam",
    "lam_at",
    "list_penalties",
    "penalties",
    "register_penalty",
]
