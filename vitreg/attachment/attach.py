"""`attach`: penalties on a Vision Transformer, from the outside."""

from __future__ import annotations

import threading
import weakref
from typing import Literal

import torch
from torch import Tensor, nn

from vitreg.attachment import names
from vitreg.attachment.alignment import may_differ
from vitreg.attachment.balance import KEPT, Balanced
from vitreg.attachment.paired_readings import Readings
from vitreg.attachment.parameter_values import ParameterValues
from vitreg.attachment.rhythm import check_rhythm, choice_of_pictures, is_due, rhythm_in_words
from vitreg.attachment.summary import place_of, summary, what_is_read
from vitreg.attachment.targets import Target, resolve_target
from vitreg.copies import InertCopies
from vitreg.errors import StateError
from vitreg.families import find_tower
from vitreg.hooks import eagerly
from vitreg.penalties import ParameterPenalty, Penalty, ReadingPenalty, check_lam, weigh
from vitreg.removable import Removable
from vitreg.sources.frozen import Source, check_source, make_source
from vitreg.types import (
    Align,
    Heads,
    Lam,
    LayerMap,
    Layers,
    NewHead,
    Passes,
    Query,
    Reduction,
    Tower,
    ViewNumbers,
)

Given = dict[str, Tensor | None]

_one_at_a_time = threading.RLock()
"""Held while a penalty is taken: threads may share a source, and the modules that it runs."""


@eagerly
def attach(
    model: nn.Module,
    source: nn.Module | Source | Literal["base"] | None = None,
    target: Target = "attn_logits",
    lam: Lam | None = None,
    *,
    layers: Layers | LayerMap | None = None,
    query: Query | None = None,
    reduction: Reduction | None = None,
    align: Align | None = None,
    heads: Heads | None = None,
    every: int = 1,
    fraction: float = 1.0,
    passes: Passes | None = None,
    new_head: NewHead | None = None,
) -> Attachment:
    """Attach penalties to a Vision Transformer and return the attachment.

    Add `attachment.penalty()` to the loss after each forward pass. Nothing of the model is replaced: its
    forward pass, its fused attention, its outputs and its `state_dict` stay what they are.

    Args:
        model: the model that is trained: a Vision Transformer or any module with one inside. Attach before
            `torch.compile`.
        source: the pre-trained model. A frozen copy of it is kept; None freezes a copy of `model` as it is
            now; another attachment's `source` is shared; "base" is the model itself with its adapters (LoRA
            of the peft library) switched off, which needs no copy.
        target: what is penalised: an extractor's name (its squared distance to the source; "attn_logits" is
            GTA), a penalty's name or a penalty, a sequence of these, or a mapping from your own names.
        lam: the weight, a number or a function of the step. A target given by name has this weight, by
            default 1 or what the penalty's authors use; a penalty's own `lam` is multiplied by it.
        layers: which blocks are read, for a target given by name (as all that follow): indices, a slice,
            "all", or {model's index: source's index} for a source of another depth.
        query: whose attention is read: "cls", "mean" or "pool".
        reduction: the squared distance's normalisation.
        align: "resample" for a source with another patch or image size.
        heads: "mean" for a source with another number of attention heads.
        every: take the penalty at one of every k calls of `penalty()` only, k times as strong; the others
            return zero and cost nothing. Which it is changes irregularly, so that loops that take several
            penalties a step (SAM, batches or tasks in turns) have each of them penalised equally often.
        fraction: take the penalty of a random part of the pictures, at least one, which the source runs on
            alone; on average it is the whole batch's. Which they are follows from `step`. For penalties that
            are means over pictures; others (`BSS`, `L2SP`, `ObjectGuide`) are refused.
        passes: which forward passes count. By default all since the last penalty, by their mean over images:
            views of a multi-crop or siamese model, the two passes of R-Drop. One that a backward pass or an
            optimiser's step has followed counts no more, as its own step took no penalty. "last" counts the
            last alone; "all" is needed where the model is compiled.
        new_head: for penalties on parameters such as L2-SP, the names of the modules or parameters inside
            `model` that are new, `()` for none. By default the classifier of the Vision Transformer and what
            stands outside of it, other than what is known to come pre-trained: the rest of a CLIP model, and
            other models of timm, torchvision or transformers.

    Raises:
        ArgumentError: a wrong type or value, an unknown name, a compiled model, or a penalty attached before.
        UnsupportedModelError: the model cannot be read that way.
        MismatchError: model and source differ in architecture.
    """
    check_lam(1.0 if lam is None else lam)
    given = {"layers": layers, "query": query, "reduction": reduction, "align": align, "heads": heads}
    options = {name: value for name, value in given.items() if value is not None}
    penalties = resolve_target(target, options, keeps_lam=lam is None)
    lam = 1.0 if lam is None else lam
    tower = find_tower(model)
    names.refuse_taken(tower.module, penalties)
    check_rhythm(every, fraction, passes, penalties)
    check_source(source)
    needs_source = any(penalty.needs_source for penalty in penalties.values())
    kept = make_source(source, model, tower, may_differ(penalties.values())) if needs_source else None
    return Attachment(model, tower, kept, penalties, lam, every, fraction, passes, new_head)


class Attachment(Balanced, InertCopies, Removable):
    """Penalties attached to a model; made by `attach`.

    Use it as a context manager, or call `remove()`, to take the hooks off the model again. The attachment
    has to be kept: once nothing refers to it any more, it removes itself.

    Attributes:
        source: the source, or None if no penalty looks at one.
        penalties: the penalties by name.
    """

    COPIED = ("source", "penalties", "_lam", "_every", "_part", "_step", "_terms", "_place", "_reads", *KEPT)
    _is_attached = False  # apart from the finalizer, which torch.compile cannot look into

    def __init__(
        self,
        model: nn.Module,
        tower: Tower,
        source: Source | None,
        penalties: dict[str, Penalty],
        lam: Lam,
        every: int,
        fraction: float,
        passes: Passes | None,
        new_head: NewHead | None = None,
    ) -> None:
        self.source = source
        self.penalties = penalties
        self.lam = lam
        self._every, self._part = every, fraction
        self._tower = tower
        self._terms: dict[str, Tensor] = {}
        on_parameters = {n: p for n, p in penalties.items() if isinstance(p, ParameterPenalty)}
        self._parameters = ParameterValues(model, tower, source, on_parameters, new_head)
        on_readings = {n: p for n, p in penalties.items() if isinstance(p, ReadingPenalty)}
        self._readings = Readings(tower, source, on_readings, passes)
        self._parameters.watch_passes()
        self._place, self._reads = place_of(tower), what_is_read(penalties, self._readings.blocks)
        taken = names.take(tower.module, penalties)
        self._is_attached = True
        self.step = 0
        hooked = (self._readings, self._parameters)
        self._finalizer = weakref.finalize(self, _detach, hooked, taken, set(penalties))

    @property
    def step(self) -> int:
        """How many penalties have been taken; what a `lam` that is a function receives. Set it to resume."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        if self._is_attached:
            self._readings.read_next(is_due(step, self._every))

    def penalty(
        self,
        step: int | None = None,
        *,
        views: ViewNumbers | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted sum of the penalties of the last forward pass or passes, a float32 scalar.

        The source runs now, on what the model was called with and under its autocast, no further than the
        deepest value that is read. A penalty on parameters alone needs no forward pass. With `every=k`, k - 1
        of k calls return zero, without a gradient, and look at nothing.

        Args:
            step: what a `lam` that is a function receives; by default the number of penalties taken so far.
            views: the numbers of the views that the batch holds, on the CPU, one an image: for a
                `CachedSource`, which needs them; no other source looks at them.
            labels: the images' labels, [b] or soft [b, classes]: for penalties such as `CoTuning`.
            masks: where the object is, bool masks [b, height, width] or boxes (left, top, right, bottom) in
                pixels, [b, 4]: for penalties such as `ObjectGuide`.

        Raises:
            StateError: no training forward pass since the last penalty, or calls of the model of which it is
                not said which count; or the attachment was removed, or nothing that is read is being trained.
            MismatchError: model and source read different shapes, or not all images or patches.
            UnsupportedModelError: the source takes weights of the model, or cannot be run as the model was.
        """
        if torch.compiler.is_compiling():  # which knows no locks, and no generators that draw pictures
            take = self._penalty if self._part == 1 else self._penalty_eagerly
            return take(step, views, {"labels": labels, "masks": masks})
        with _one_at_a_time:
            return self._penalty(step, views, {"labels": labels, "masks": masks})

    def _penalty(self, step: int | None, views: ViewNumbers | None, given: Given) -> Tensor:
        if not self._is_attached:
            raise StateError("This attachment was removed; attach again to take a penalty.")
        step = self.step if step is None else step
        if not is_due(self.step, self._every):
            self.step += 1
            return torch.zeros((), device=next(self._tower.module.parameters()).device, dtype=torch.float32)
        choose = choice_of_pictures(self.step, self._part)
        values = {**self._readings.values(views, given, choose), **self._parameters.values()}
        lam, every = self._lam, self._every
        parts = [weigh(values[name], name, p, lam, every, step) for name, p in self.penalties.items()]
        self._terms = {name: values[name].detach() for name in self.penalties}
        self.step += 1
        return sum(parts[1:], parts[0])

    _penalty_eagerly = eagerly(_penalty)

    @property
    def terms(self) -> dict[str, Tensor]:
        """The last unweighted value of each penalty by name, detached, for logging."""
        return dict(self._terms)

    def remove(self) -> None:
        """Take the hooks off the model and forget the last pass; calling it again does nothing."""
        self._is_attached = False
        self._take_off()

    def __repr__(self) -> str:
        state = "attached" if self._is_attached else "removed"
        state = f"{state}, step {self.step}, lam={self._lam}{rhythm_in_words(self._every, self._part)}"
        return summary(self._place, self._reads, self.penalties, self.source, state)


def _detach(hooked: tuple[Readings, ParameterValues], names: set[str], ours: set[str]) -> None:
    """Take the hooks off and give the names back."""
    for part in hooked:
        part.remove()
    names -= ours
