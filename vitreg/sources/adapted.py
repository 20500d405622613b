"""A model with adapters (LoRA) as its own source: the base weights, without a second copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.errors import ArgumentError, StateError
from vitreg.families import find_tower
from vitreg.functional.precision import Autocast
from vitreg.hooks import eagerly
from vitreg.reader import ALONE, Reader, readers, tensors_in
from vitreg.reader.random_state import RandomState, replay
from vitreg.sources.forward import evaluating, run_source
from vitreg.sources.independence import own_weights_only
from vitreg.types import Arguments, Tower, ViewNumbers


class BaseSource:
    """The model itself with its adapters switched off, in eval mode and without gradients.

    Made by `attach(model, "base")`. The adapters are switched through `enable_adapters`, which every layer of
    the peft library has. It costs no memory; a penalty on parameters needs the weights of a real source.

    Raises:
        ArgumentError: the model has no adapters, they are merged into the base weights, or parameters other
            than adapters and the head are trained, so that the base would not stay what it is.
    """

    def __init__(self, tower: Tower) -> None:
        self.tower = tower
        self._is_watched = False  # whether one pass was, for weights that are trained
        if not _adapted_layers(tower.module):
            raise ArgumentError(
                "source='base' is for a model with adapters of the peft library, found none in "
                f"{type(tower.module).__name__}. Use peft.get_peft_model first, or pass source=None."
            )
        _refuse_merged(tower.module)
        with _adapters_off(tower.module):
            self._refuse_trained()

    is_random = False
    """Whether it draws random numbers; see `FrozenSource`."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "tower": self.tower.module}  # a tower's probes are functions of this process

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.tower = find_tower(state["tower"])

    def _refuse_trained(self) -> None:
        """Raise `ArgumentError` if a parameter of the base is trained; adapters that are off are not."""
        module = self.tower.module
        head = {id(p) for name in self.tower.heads for p in module.get_submodule(name).parameters()}
        trained = [n for n, p in module.named_parameters() if p.requires_grad and id(p) not in head]
        if trained:
            raise ArgumentError(
                f"source='base' needs base weights that stay what they are, found {len(trained)} that are "
                f"trained, such as {trained[0]!r}. Freeze them, or pass source=None for a frozen copy."
            )

    def follow(self, model: nn.Module) -> None:
        """Do nothing: it is the model."""

    @eagerly
    def read(
        self,
        reader: Reader,
        images: Tensor,
        autocast: Autocast | None,
        *,
        more: Arguments = ALONE,
        random: RandomState | None = None,
        resize: bool = False,
        views: ViewNumbers | None = None,
    ) -> None:
        """Run the model without its adapters on `images`, as deep as `reader` waits for.

        `more` is what the model was called with beside the images. It runs eagerly: a model that is compiled
        would be compiled once more without its adapters.

        Raises:
            ArgumentError: the adapters are merged, or the base is trained.
            StateError: several threads run the model.
        """
        module = self.tower.module
        if any(other.threads.are_several for other in readers.get(module, ())):
            raise StateError(
                "Expected one thread with source='base', which switches the model's adapters off while it "
                "runs, found several that run the model. Pass source=None, or a model of its own to each."
            )
        _refuse_merged(module)
        given = [images, *tensors_in(more)]
        with evaluating(module), _adapters_off(module), torch.compiler.set_stance("force_eager"):
            self._refuse_trained()  # somebody may have unfrozen them since
            with (
                replay(random, images.device),
                nullcontext() if self._is_watched else own_weights_only(module, given=given),
            ):
                run_source(reader, images, autocast, more)
        self._is_watched = True


def _adapted_layers(model: nn.Module) -> list[Any]:
    """Return the layers with adapters."""
    return [module for module in model.modules() if callable(getattr(module, "enable_adapters", None))]


def _refuse_merged(model: nn.Module) -> None:
    """Raise `ArgumentError` if adapters are merged: peft would take them out of the weights for good."""
    if any(getattr(layer, "merged", False) for layer in _adapted_layers(model)):
        raise ArgumentError(
            "source='base' needs adapters beside the base weights, found some merged into them. "
            "Call unmerge_adapter() first, or pass a separate source."
        )


@contextmanager
def _adapters_off(model: nn.Module) -> Iterator[None]:
    """Switch the adapters off, and afterwards on again as they were, with what of them is trained."""
    layers = [layer for layer in _adapted_layers(model) if not layer.disable_adapters]
    trained = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)
