"""vitreg: keep what a pre-trained Vision Transformer knows while fine-tuning it.

The names are loaded when they are asked for (PEP 562), so that `import vitreg` and `vitreg --help` do not
load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitreg import functional as functional
    from vitreg import measure as measure
    from vitreg.attachment.attach import Attachment, attach
    from vitreg.attachment.project import Projector, project
    from vitreg.augment import TransMix
    from vitreg.description import Description, describe
    from vitreg.errors import ArgumentError, MismatchError, StateError, UnsupportedModelError, VitregError
    from vitreg.extractors import list_extractors, register_extractor
    from vitreg.families import list_families, list_towers, register_family, register_tower
    from vitreg.families.registries import BlockParts, TowerParts
    from vitreg.linear_probe.head import fit_head
    from vitreg.linear_probe.probe import LinearProbe, fit_probe
    from vitreg.parameters.freeze import Freeze, freeze
    from vitreg.parameters.groups import param_groups
    from vitreg.parameters.interpolation import interpolate, interpolation_curve, uniform_soup
    from vitreg.penalties import (
        GivenPenalty,
        ParameterPenalty,
        PassPenalty,
        ReadingPenalty,
        list_penalties,
        register_penalty,
    )
    from vitreg.penalties.attention_kl import AttentionKL
    from vitreg.penalties.bss import BSS
    from vitreg.penalties.co_tuning import CoTuning
    from vitreg.penalties.delta import DELTA
    from vitreg.penalties.feature_guide import FeatureGuide
    from vitreg.penalties.gram_anchor import GramAnchor
    from vitreg.penalties.gta import GTA
    from vitreg.penalties.l2sp import L2SP
    from vitreg.penalties.ldifs import LDIFS
    from vitreg.penalties.lwf import LwF
    from vitreg.penalties.object_guide import ObjectGuide
    from vitreg.penalties.r_drop import RDrop
    from vitreg.projections import Projection, list_projections, register_projection
    from vitreg.projections.ftp import FTP
    from vitreg.projections.l2ball import L2Ball
    from vitreg.projections.mars import MARS
    from vitreg.projections.spd import SPD
    from vitreg.sources.adapted import BaseSource
    from vitreg.sources.cached import CachedSource
    from vitreg.sources.frozen import FrozenSource
    from vitreg.tracing import Trace, trace
    from vitreg.types import AttentionReading, Block, Probe, Tap, Tower
    from vitreg.views import Views

__version__ = "0.1.0"

__all__ = [
    "BSS",
    "DELTA",
    "FTP",
    "GTA",
    "L2SP",
    "LDIFS",
    "MARS",
    "SPD",
    "ArgumentError",
    "Attachment",
    "AttentionKL",
    "AttentionReading",
    "BaseSource",
    "Block",
    "BlockParts",
    "CachedSource",
    "CoTuning",
    "Description",
    "FeatureGuide",
    "Freeze",
    "FrozenSource",
    "GivenPenalty",
    "GramAnchor",
    "L2Ball",
    "LinearProbe",
    "LwF",
    "MismatchError",
    "ObjectGuide",
    "ParameterPenalty",
    "PassPenalty",
    "Probe",
    "Projection",
    "Projector",
    "RDrop",
    "ReadingPenalty",
    "StateError",
    "Tap",
    "Tower",
    "TowerParts",
    "Trace",
    "TransMix",
    "UnsupportedModelError",
    "Views",
    "VitregError",
    "__version__",
    "attach",
    "describe",
    "fit_head",
    "fit_probe",
    "freeze",
    "interpolate",
    "interpolation_curve",
    "list_extractors",
    "list_families",
    "list_penalties",
    "list_projections",
    "list_towers",
    "param_groups",
    "project",
    "register_extractor",
    "register_family",
    "register_penalty",
    "register_projection",
    "register_tower",
    "trace",
    "uniform_soup",
]

_PLACES = {
    "vitreg.attachment.attach": ("Attachment", "attach"),
    "vitreg.attachment.project": ("Projector", "project"),
    "vitreg.augment": ("TransMix",),
    "vitreg.description": ("Description", "describe"),
    "vitreg.errors": ("ArgumentError", "MismatchError", "StateError", "UnsupportedModelError", "VitregError"),
    "vitreg.extractors": ("list_extractors", "register_extractor"),
    "vitreg.families": ("list_families", "list_towers", "register_family", "register_tower"),
    "vitreg.families.registries": ("BlockParts", "TowerParts"),
    "vitreg.linear_probe.head": ("fit_head",),
    "vitreg.linear_probe.probe": ("LinearProbe", "fit_probe"),
    "vitreg.parameters.freeze": ("Freeze", "freeze"),
    "vitreg.parameters.groups": ("param_groups",),
    "vitreg.parameters.interpolation": ("interpolate", "interpolation_curve", "uniform_soup"),
    "vitreg.penalties": (
        "GivenPenalty",
        "ParameterPenalty",
        "PassPenalty",
        "ReadingPenalty",
        "list_penalties",
        "register_penalty",
    ),
    "vitreg.penalties.attention_kl": ("AttentionKL",),
    "vitreg.penalties.bss": ("BSS",),
    "vitreg.penalties.co_tuning": ("CoTuning",),
    "vitreg.penalties.delta": ("DELTA",),
    "vitreg.penalties.feature_guide": ("FeatureGuide",),
    "vitreg.penalties.gram_anchor": ("GramAnchor",),
    "vitreg.penalties.gta": ("GTA",),
    "vitreg.penalties.l2sp": ("L2SP",),
    "vitreg.projections": ("Projection", "list_projections", "register_projection"),
    "vitreg.projections.ftp": ("FTP",),
    "vitreg.projections.l2ball": ("L2Ball",),
    "vitreg.projections.mars": ("MARS",),
    "vitreg.projections.spd": ("SPD",),
    "vitreg.penalties.ldifs": ("LDIFS",),
    "vitreg.penalties.lwf": ("LwF",),
    "vitreg.penalties.object_guide": ("ObjectGuide",),
    "vitreg.penalties.r_drop": ("RDrop",),
    "vitreg.sources.adapted": ("BaseSource",),
    "vitreg.sources.cached": ("CachedSource",),
    "vitreg.sources.frozen": ("FrozenSource",),
    "vitreg.tracing": ("Trace", "trace"),
    "vitreg.types": ("AttentionReading", "Block", "Probe", "Tap", "Tower"),
    "vitreg.views": ("Views",),
}
"""Where each public name is defined."""

_MODULES = ("functional", "measure")
"""The modules whose names are public, too."""


def __getattr__(name: str) -> Any:
    """Return a public name of this package, loaded now."""
    if name in _MODULES:
        return import_module(f"vitreg.{name}")
    for module, names in _PLACES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(module), name)
            return found
    raise AttributeError(f"module 'vitreg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
