"""Whether the last pass of a model ran with the weights that the model has now."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vitreg.errors import StateError
from vitreg.hooks import Hooks
from vitreg.types import Tap


class PassWeights:
    """Notes which tensors were the model's weights when it last ran with gradients.

    `torch.func.functional_call` puts others in their place, for the one call. A penalty on parameters that is
    taken afterwards would look at the model's own, which the loss does not depend on.

    Args:
        model: the model.
        stem: the first of its modules to run.
    """

    def __init__(self, model: nn.Module, stem: nn.Module) -> None:
        self._model = model
        self._noted: dict[str, int] = {}
        self._hooks = Hooks([(Tap(stem, "input"), self._note)])

    def check(self) -> None:
        """Raise `StateError` unless the last pass, if there was one, ran with the weights of now."""
        if not self._noted:
            return
        for name, parameter in self._model.named_parameters():
            if self._noted.get(name, id(parameter)) != id(parameter):
                raise StateError(
                    f"A penalty on parameters looks at the weights that the model has now; {name!r} was "
                    "another tensor in the last pass, as with torch.func.functional_call. Take the penalty "
                    "inside the call: give functional_call a module whose forward returns loss and penalty."
                )

    def remove(self) -> None:
        """Remove the hook."""
        self._hooks.remove()
        self._noted = {}

    def _note(self, delivered: Any) -> None:
        if not torch.compiler.is_compiling() and torch.is_grad_enabled():
            # The model's own parameters exist all the time, so another tensor has another id.
            self._noted = {name: id(parameter) for name, parameter in self._model.named_parameters()}
