"""A method at work on a model: its penalty, the part it trains, how it mixes pictures and takes the loss."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn import functional as F

import vitreg
from vitreg.errors import InputError
from vitreg.families import find_tower
from vitreg.removable import Removable
from vitreg.train.training.adapters import Adapters
from vitreg.train.training.composition import needs_masks
from vitreg.train.training.hyperparameters import TRANSMIX, Hyperparameters
from vitreg.train.training.methods import METHODS, can_be_remembered, target_of


class Whole(NamedTuple):
    """The source with the head of its own task, and how its classes relate to those of the run."""

    source: nn.Module
    relation: Tensor


class Applied(Removable):
    """Method `method` on `model`, from its construction until `remove`, or as a context manager.

    Args:
        model: the model, which is also the source.
        method: a name of `METHODS`.
        lam: its λ, if it has one.
        hyper: how pictures are mixed, labels smoothed, and when and of what the penalty is taken.
        num_classes: of the task.
        num_pictures: how many the views of `hyper` are of.
        readings: the folder in which is kept what the source reads of a view.
        whole: what Co-tuning needs.

    Attributes:
        passes: how many forward passes a step has; the loss is their mean.
        attachment: what computes the penalty, or None without one.
        adapters: what trains the blocks, or None where their weights are trained.
        projector: what pulls the weights back, once `project` has been called, or None without.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str,
        lam: float | None,
        hyper: Hyperparameters,
        *,
        num_classes: int,
        num_pictures: int = 0,
        readings: Path | None = None,
        whole: Whole | None = None,
    ) -> None:
        self._hyper = hyper
        self.attachment: vitreg.Attachment | None = None
        self.adapters: Adapters | None = None
        self.projector: vitreg.Projector | None = None
        self._transmix: vitreg.TransMix | None = None
        self._mixup: Mixup | None = None
        chosen, target, mixing = METHODS[method], target_of(method, lam), hyper.mixing
        self.passes = 2 if isinstance(target, vitreg.PassPenalty) else 1
        if mixing and (self.passes > 1 or needs_masks(target)):
            raise InputError(f"{method} does not go with mixed pictures; leave out --mixup and --cutmix")
        self._model = model
        self._projection = None if chosen.projection is None else chosen.projection(lam or 0.0)
        with ExitStack() as undo:
            # First, as a penalty on the weights leaves out those that are frozen.
            if chosen.trains is not None:
                undo.enter_context(vitreg.freeze(model, chosen.trains))
            if chosen.adapters:
                self.adapters = Adapters(model)
                undo.callback(self.adapters.merge)
            if target is not None:
                # A mixed picture is none of the views.
                views = hyper.views * num_pictures
                is_kept = views and can_be_remembered(target) and not mixing and not chosen.transmix
                source: nn.Module | vitreg.CachedSource | Literal["base"] | None = None
                if isinstance(target, vitreg.CoTuning) and whole is not None:
                    source, target = whole.source, replace(target, relation=whole.relation)
                elif chosen.adapters:
                    source = "base"
                elif is_kept:
                    source = vitreg.CachedSource(model, views, path=readings)
                self.attachment = vitreg.attach(
                    model, source, target=target, every=hyper.every, fraction=hyper.fraction
                )
                undo.callback(self.attachment.remove)
            if chosen.transmix:
                used = mixing or TRANSMIX
                self._transmix = vitreg.TransMix(
                    model,
                    num_classes=num_classes,
                    mixup_alpha=used.mixup,
                    cutmix_alpha=used.cutmix,
                    switch_prob=used.switch,
                    smoothing=hyper.smoothing,
                )
                undo.callback(self._transmix.remove)
            elif mixing:
                self._mixup = Mixup(
                    mixup_alpha=mixing.mixup,
                    cutmix_alpha=mixing.cutmix,
                    switch_prob=mixing.switch,
                    label_smoothing=hyper.smoothing,
                    num_classes=num_classes,
                )
            self._undo = undo.pop_all()

    def blocks(self) -> list[nn.Module]:
        """Return the transformer blocks of the frozen source, where every process runs it, and the model."""
        towers = [find_tower(self._model)]
        # What a remembered source runs is decided by each process for its own pictures.
        if self.attachment is not None and type(self.attachment.source) is vitreg.FrozenSource:
            towers.insert(0, self.attachment.source.tower)
        return [block.module for tower in towers for block in tower.blocks]

    def project(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the projection, if the method has one, follow the optimiser's steps from now on."""
        if self._projection is not None:
            source: Literal["base"] | None = None if self.adapters is None else "base"
            self.projector = vitreg.project(self._model, optimizer, source, self._projection)
            self._undo.callback(self.projector.remove)

    def mix(self, pictures: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pictures as the model shall see them, and their labels, [b] or soft [b, classes]."""
        if self._transmix is not None:
            return self._transmix(pictures, labels)
        if self._mixup is not None:
            return self._mixup(pictures.clone(), labels)
        return pictures, labels

    def loss(self, logits: Tensor, labels: Tensor, part: slice | None = None) -> Tensor:
        """Return the cross-entropy of the logits [b, classes] with the labels that `mix` returned.

        `part` says which pictures of the mixed batch these are; None for all.
        """
        if self._transmix is not None:
            return self._transmix.loss(logits, part)
        smoothing = 0.0 if self._mixup is not None else self._hyper.smoothing  # it has smoothed them itself
        return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)

    def penalty(
        self, loss: Tensor | None = None, views: Tensor | None = None, **known: Any
    ) -> Tensor | float:
        """Return the weighted penalty of the last forward pass or passes, on the views with these numbers.

        `loss` is that of the same passes, to which the penalty is balanced; `labels` and `masks` are what is
        `known` of the pictures.
        """
        if self.attachment is None:
            return 0.0
        if self._hyper.balance and loss is not None:
            return self.attachment.balance(loss, ratio=self._hyper.balance, views=views, **known)
        return self.attachment.penalty(views=views, **known)

    @property
    def terms(self) -> dict[str, Tensor]:
        """The penalty's unweighted terms."""
        return {} if self.attachment is None else dict(self.attachment.terms)

    def remove(self) -> None:
        """Leave nothing on the model; calling it again does nothing."""
        self._undo.close()
