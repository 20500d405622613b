"""Projections: how the weights are pulled back after a step. Importing this package registers them."""

from importlib import import_module
from pkgutil import iter_modules

from vitreg.projections.base import (
    Projection,
    State,
    list_projections,
    projections,
    register_projection,
)

__all__ = ["Projection", "State", "list_projections", "projections", "register_projection"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")  # each file registers its own projection
