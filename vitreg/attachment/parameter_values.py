"""The values of penalties on parameters, from the model's and its source's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vitreg.errors import ArgumentError, UnsupportedModelError
from vitreg.functional.shards import sharded_by
from vitreg.parameters.pass_weights import PassWeights
from vitreg.parameters.start import pair_weights
from vitreg.penalties import ParameterPenalty
from vitreg.sources.frozen import FrozenSource, Source
from vitreg.types import NewHead, Tower


class ParameterValues:
    """The penalties on parameters, and what they are computed from.

    Args:
        model: the trained model.
        tower: its Vision Transformer.
        source: the source; needed if there is a penalty.
        penalties: the penalties by name.
        new_head: which parameters are new, see `vitreg.parameters.heads`.

    Raises:
        ArgumentError: the source has no weights of its own, or `new_head` names nothing.
        MismatchError: a parameter is missing in the source, or has another shape there.
    """

    def __init__(
        self,
        model: nn.Module,
        tower: Tower,
        source: Source | None,
        penalties: Mapping[str, ParameterPenalty],
        new_head: NewHead | None,
    ) -> None:
        self._model = model
        self._tower = tower
        self._source = source
        self._penalties = penalties
        self._new_head = new_head
        self._pass_weights: PassWeights | None = None
        if new_head is not None and not penalties:
            raise ArgumentError(
                "new_head is for penalties on parameters such as L2SP, found none. Leave it out."
            )
        self.values()  # what cannot work is an error now, not at the first step

    def watch_passes(self) -> None:
        """Notice from now on passes that run with other weights than the model's own."""
        if self._penalties:
            self._pass_weights = PassWeights(self._model, self._tower.stem)

    def values(self) -> dict[str, Tensor]:
        """Return each penalty's unweighted value; zero where all that it looks at is frozen.

        Raises:
            StateError: the last pass ran with other weights.
            UnsupportedModelError: the parameters are sharded, and a penalty does not take shards.
        """
        if self._pass_weights is not None and sharded_by(self._model.parameters()) is None:
            self._pass_weights.check()
        return {name: self._value(name, penalty) for name, penalty in self._penalties.items()}

    def remove(self) -> None:
        """Remove the hook."""
        if self._pass_weights is not None:
            self._pass_weights.remove()

    def _value(self, name: str, penalty: ParameterPenalty) -> Tensor:
        assert self._source is not None
        if not isinstance(self._source, FrozenSource):
            raise ArgumentError(
                f"{name!r} compares parameters with the source's, but with source='base' both are the "
                "same. Pass source=None for a frozen copy."
            )
        self._source.follow(self._tower.module)
        weights = pair_weights(self._model, self._tower, self._source.tower, penalty.selects, self._new_head)
        if not weights.parameters and not weights.head:  # the penalty joins when something is trained
            return torch.zeros((), device=next(self._tower.module.parameters()).device, dtype=torch.float32)
        if not penalty.takes_shards and sharded_by((*weights.parameters, *weights.head)) is not None:
            raise UnsupportedModelError(
                f"{name!r} needs whole parameters, found sharded ones (FSDP2). Use DDP, or compute it by "
                "vitreg.functional.half_squared_norm, which knows shards, and set takes_shards = True."
            )
        return penalty.value(*weights)
