"""The trainer, installed as `vitreg[train]`: one model, fine-tuned on a folder of pictures.

The names are loaded when they are asked for, as those of `vitreg`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vitreg.errors import MissingLibraryError

if TYPE_CHECKING:
    from vitreg.train.export import export
    from vitreg.train.finetuned import Finetuned
    from vitreg.train.finetuning import finetune
    from vitreg.train.options import FinetuneOptions, PredictOptions
    from vitreg.train.prediction import Predicted, predict
    from vitreg.train.trained_model import TrainedModel, load_model
    from vitreg.train.training.methods import register_method

__all__ = [
    "FinetuneOptions",
    "Finetuned",
    "PredictOptions",
    "Predicted",
    "TrainedModel",
    "export",
    "finetune",
    "load_model",
    "predict",
    "register_method",
]

_PLACES = {
    "vitreg.train.export": ("export",),
    "vitreg.train.finetuned": ("Finetuned",),
    "vitreg.train.finetuning": ("finetune",),
    "vitreg.train.options": ("FinetuneOptions", "PredictOptions"),
    "vitreg.train.prediction": ("Predicted", "predict"),
    "vitreg.train.trained_model": ("TrainedModel", "load_model"),
    "vitreg.train.training.methods": ("register_method",),
}
"""Where each public name is defined."""


def __getattr__(name: str) -> Any:
    """Return a public name of the trainer, loaded now.

    Raises:
        MissingLibraryError: A library of the extra `train` is not installed.
    """
    for module, names in _PLACES.items():
        if name in names:
            try:
                found = globals()[name] = getattr(import_module(module), name)
            except ModuleNotFoundError as error:
                if error.name is None or error.name.split(".")[0] == "vitreg":
                    raise
                library = error.name.split(".")[0]
                raise MissingLibraryError(
                    f'vitreg.train needs {library}, which is not installed: pip install "vitreg[train]"'
                ) from error
            return found
    raise AttributeError(f"module 'vitreg.train' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
