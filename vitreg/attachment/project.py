"""`project`: weights pulled back to their source after each step of an optimiser, from the outside."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vitreg.attachment.weight_chunks import WeightChunk, weight_chunks
from vitreg.copies import InertCopies
from vitreg.errors import ArgumentError, MismatchError, StateError, in_words
from vitreg.functional.shifts import pull
from vitreg.hooks import StepHooks
from vitreg.parameters.origins import Origin, Origins, find_origins
from vitreg.projections import Projection, State, projections
from vitreg.removable import Removable
from vitreg.sources.frozen import FrozenSource
from vitreg.types import NewHead

_taken: weakref.WeakKeyDictionary[Optimizer, set[str]] = weakref.WeakKeyDictionary()
"""Which projections hang on which optimisers."""


def project(
    model: nn.Module,
    optimizer: Optimizer,
    source: nn.Module | Mapping[str, Tensor] | FrozenSource | Literal["base"] | None,
    projection: Projection | str,
    *,
    new_head: NewHead | None = None,
) -> Projector:
    """Pull the weights of `model` back toward `source` after each step of `optimizer`, until removed.

    Nothing is replaced: the optimiser's own hooks are used, and the training loop stays as it is. Parameters
    are paired with the source's by name. The new head, and what has no partner of the same shape, are left
    alone; `print` the result to see which these are.

    Args:
        model: the model that is trained: a Vision Transformer or any module with one inside. Shard it first
            where FSDP2 is used.
        optimizer: the optimiser of its parameters, or what wraps one (Accelerate's, Lightning's, SAM's). It
            is called `step` with or without a closure; a step that `GradScaler` skips is no step.
        source: where the weights started: a model, its state dict, another attachment's `source`, or None
            for the model as it is now. It is copied. "base" is for a model with LoRA adapters of the peft
            library: their weights, which are what is added to the base, start at zero.
        projection: how the weights are pulled back.
        new_head: the names of the modules or parameters inside `model` that are new, `()` for none, as in
            `attach`. A model in which no Vision Transformer is known needs it.

    Raises:
        ArgumentError: an argument of a wrong type, an optimiser of other parameters, or one that has a
            projection of that name already.
        MismatchError: the source has none of the model's parameters.
        UnsupportedModelError: the parameters are joined by FSDP1, or sharded otherwise than by FSDP2.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"Expected a torch.nn.Module, got {in_words(model)}.")
    model, optimizer, chosen = _unwrap(model), _inner(optimizer), _resolve(projection)
    if chosen.name in _taken.get(optimizer, ()):
        raise ArgumentError(
            f"{chosen.name!r} is on this optimiser already. Remove that projection first (`remove()`)."
        )
    if isinstance(source, FrozenSource):
        source = source.tower.module
    elif isinstance(source, nn.Module):
        source = _unwrap(source)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    if not {id(p) for p in trained} & {id(p) for p in model.parameters()}:
        raise ArgumentError(
            f"Expected an optimiser of the parameters of {type(model).__name__}, found none of them in it. "
            "Make it after the model is moved or sharded."
        )
    origins = find_origins(model, source, chosen.selects, trained, new_head)
    return Projector(type(model).__name__, optimizer, chosen, origins)


class Projector(InertCopies, Removable):
    """A projection at work on an optimiser; made by `project`. It lives as long as the optimiser.

    Use it as a context manager, or call `remove()`, to take it off again. A copy of the optimiser has none.

    Attributes:
        projection: the projection.
    """

    COPIED = ("projection", "_place", "_said")
    _hooks: StepHooks | None = None

    def __init__(self, place: str, optimizer: Optimizer, projection: Projection, origins: Origins) -> None:
        self.projection = projection
        self._place, self._said = place, origins.in_words()
        self._origins = {id(origin.parameter): origin for origin in origins.paired}
        self._frozen = origins.frozen
        self._states: dict[str, State] = {origin.name: {} for origin in origins.paired}
        self._begun: list[tuple[WeightChunk, Any]] = []
        self._optimizer = weakref.ref(optimizer)
        self._hooks = StepHooks(optimizer, self._before, self._after)
        _taken.setdefault(optimizer, set()).add(projection.name)

    def state_dict(self) -> dict[str, Any]:
        """Return what the projection remembers, by the names of the parameters, for `load_state_dict`.

        Of parameters that are sharded it is this process's part.
        """
        remembered = ((name, state) for name, state in self._states.items() if state)
        states = {name: {key: value.clone() for key, value in state.items()} for name, state in remembered}
        return {"projection": self.projection.name, "start": self._digest, "state": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned, so that a training that goes on is as one without a break.

        Raises:
            ArgumentError: it is the state of another projection.
            MismatchError: the weights start elsewhere, or it knows parameters that the model has not.
        """
        if set(state) != {"projection", "start", "state"} or state["projection"] != self.projection.name:
            found = state.get("projection", "something else")
            raise ArgumentError(f"Expected the state of {self.projection.name!r}, found that of {found!r}.")
        unknown = set(state["state"]) - self._states.keys()
        if unknown or state["start"] != self._digest:
            what = f"parameters such as {min(unknown)!r}" if unknown else "weights that start elsewhere"
            raise MismatchError(
                f"Expected the parameters and the start that the state was saved with, found {what}. Call "
                "project with the same source, before the trained weights are loaded if that is None."
            )
        for origin in self._origins.values():
            kept = state["state"].get(origin.name, {})
            self._states[origin.name] = {
                key: value.to(origin.start.device, copy=True) for key, value in kept.items()
            }

    def remove(self) -> None:
        """Take the projection off the optimiser; calling it again, or on a copy, does nothing."""
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None
            optimizer = self._optimizer()
            if optimizer is not None:
                _taken.get(optimizer, set()).discard(self.projection.name)

    def __repr__(self) -> str:
        state = "removed" if self._hooks is None else "at work"
        return "\n".join([f"Projection of {self._place} by {self.projection}, {state}", *self._said])

    @cached_property
    def _digest(self) -> str:
        """What tells this start from others, bit by bit."""
        digest = hashlib.sha256()
        for origin in self._origins.values():
            digest.update(f"{origin.name} {origin.start.dtype} {list(origin.start.shape)}".encode())
            digest.update(origin.start.cpu().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _before(self, scale: Tensor | None) -> None:
        self._begun = []
        for chunk in weight_chunks(self._moving_parameters()):
            noted = None
            if self.projection.reads_gradient:
                noted = self.projection.before(chunk.shifts(), chunk.gradients(scale), self._of(chunk))
            self._begun.append((chunk, noted))

    def _after(self) -> None:
        for chunk, noted in self._begun:
            shares = self.projection.shares(chunk.shifts(), noted, self._of(chunk))
            pull(chunk.weights(), chunk.starts(), shares)
        self._begun = []

    def _of(self, chunk: WeightChunk) -> list[State]:
        for origin, weight in zip(chunk.origins, chunk.weights(), strict=True):
            state = self._states[origin.name]
            state.update({key: value.to(weight.device) for key, value in state.items()})
        return [self._states[origin.name] for origin in chunk.origins]

    def _moving_parameters(self) -> Iterator[tuple[Origin, bool]]:
        """Yield the parameters that the step moves, and whether their gradient is ascended."""
        optimizer = self._optimizer()
        assert optimizer is not None
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if id(parameter) in self._frozen:
                    raise StateError(
                        f"Expected {self._frozen[id(parameter)]!r} to stay frozen, as it was when `project` "
                        "was called, found it in a step: where it started is not known. Call project after "
                        "it is unfrozen, with a source."
                    )
                if id(parameter) in self._origins:
                    yield self._origins[id(parameter)], bool(group.get("maximize"))


def _resolve(projection: object) -> Projection:
    if isinstance(projection, str):
        kind = projections[projection]
        try:
            return kind()
        except TypeError as error:
            raise ArgumentError(
                f"{projection!r} needs options: pass a {kind.__name__}(…) ({error})."
            ) from error
    if isinstance(projection, type) and issubclass(projection, Projection):
        raise ArgumentError(f"project takes a projection, not its class: write {projection.__name__}(…).")
    if not isinstance(projection, Projection):
        raise ArgumentError(f"Expected a projection or its name, got {in_words(projection)}.")
    return projection


def _unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DDP and `torch.compile`, whose parameters are the same."""
    while type(model).__name__ in ("DistributedDataParallel", "OptimizedModule"):
        model = getattr(model, "_orig_mod", None) or model.module  # type: ignore[assignment]
    return model


def _inner(optimizer: object) -> Optimizer:
    """Return the optimiser that takes the steps: that of Accelerate, Lightning, SAM or Lookahead inside."""
    for name in ("optimizer", "base_optimizer", "_base_optimizer"):
        inside = getattr(optimizer, name, None)
        if isinstance(inside, Optimizer):
            return _inner(inside)
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(f"Expected a torch.optim.Optimizer, got {in_words(optimizer)}.")
    return optimizer
