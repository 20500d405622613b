"""vitreg: keep what a pre-trained Vision Transformer knows while fine-tuning it."""

from vitreg import measure as measure
from vitreg.attachment.attach import Attachment, attach
from vitreg.augment import TransMix
from vitreg.description import Description, describe
from vitreg.errors import ArgumentError, MismatchError, StateError, UnsupportedModelError, VitregError
from vitreg.extractors import list_extractors, register_extractor
from vitreg.families import list_families, list_towers, register_family, register_tower
from vitreg.families.registries import BlockParts, TowerParts
from vitreg.parameters.freeze import Freeze, freeze
from vitreg.penalties import (
    BSS,
    GTA,
    L2SP,
    FeatureGuide,
    ParameterPenalty,
    ReadingPenalty,
    list_penalties,
    register_penalty,
)
from vitreg.sources.adapted import BaseSource
from vitreg.sources.cached import CachedSource
from vitreg.sources.frozen import FrozenSource
from vitreg.tracing import Trace, trace
from vitreg.types import AttentionReading, Block, Probe, Tap, Tower
from vitreg.views import Views

__version__ = "0.1.0"

__all__ = [
    "BSS",
    "GTA",
    "L2SP",
    "ArgumentError",
    "Attachment",
    "AttentionReading",
    "BaseSource",
    "Block",
    "BlockParts",
    "CachedSource",
    "Description",
    "FeatureGuide",
    "Freeze",
    "FrozenSource",
    "MismatchError",
    "ParameterPenalty",
    "Probe",
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
    "freeze",
    "list_extractors",
    "list_families",
    "list_penalties",
    "list_towers",
    "register_extractor",
    "register_family",
    "register_penalty",
    "register_tower",
    "trace",
]
