"""Families: how attention is computed in a class of module, and where it sits in a class of model.

One file per library, imported only if that library is: a model of a library that nobody imported cannot
be at hand.
"""

from vitreg.families.find import find_tower
from vitreg.families.registries import (
    families,
    list_families,
    list_towers,
    register_family,
    register_tower,
    towers,
)

__all__ = [
    "families",
    "find_tower",
    "list_families",
    "list_towers",
    "register_family",
    "register_tower",
    "towers",
]
