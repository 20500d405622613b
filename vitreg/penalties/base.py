"""What a penalty is, and their registry. A penalty is a pure function of tensors with its options."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from vitreg.errors import ArgumentError, UnsupportedModelError, in_words
from vitreg.functional.precision import without_autocast
from vitreg.registry import Registry
from vitreg.types import Align, Heads, Lam, LayerMap, Layers, Query, Tower
from vitreg.wording import type_and_value

_LARGEST = torch.finfo(torch.float32).max


def check_lam(lam: object, *, name: str = "lam") -> None:
    """Raise `ArgumentError` unless `lam` is a finite number of at least 0 or a function of the step."""
    if callable(lam):
        return
    if isinstance(lam, bool) or not isinstance(lam, int | float):
        raise ArgumentError(f"{name} must be a number or a function of the step, got {type_and_value(lam)}.")
    try:
        number = float(lam)
    except OverflowError:  # a whole number may be larger than any float, and too long to be shown
        raise ArgumentError(f"{name} must be finite and at least 0, got one larger than any float.") from None
    if not math.isfinite(number) or number < 0:
        raise ArgumentError(f"{name} must be finite and at least 0, got {lam!r}.")


def check_positive(number: object, *, name: str) -> None:
    """Raise `ArgumentError` unless `number` is a finite one above 0."""
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
        raise ArgumentError(f"{name} must be a finite number above 0, got {number!r}.")


def lam_at(lam: Lam, step: int, *, name: str = "lam") -> float:
    """Return the weight at `step`; raises `ArgumentError` if a function returns anything but a weight."""
    if not callable(lam):
        return float(lam)
    value = lam(step)
    if callable(value):
        raise ArgumentError(f"{name} is a function that returned a function at step {step}.")
    check_lam(value, name=f"{name} at step {step}")
    return float(value)


def weight_at(name: str, penalty: Penalty, lam: Lam, every: int, step: int) -> float:
    """Return by what a penalty's value is multiplied at `step`.

    Args:
        name: what the penalty is called, for an error.
        penalty: has a weight of its own.
        lam: the attachment's.
        every: at one of how many steps it is taken.
        step: the step.

    Raises:
        ArgumentError: a function returns no weight, or the product is no number in float32.
    """
    own = lam_at(penalty.lam, step, name=f"{name}'s lam")
    weight = float(every) * lam_at(lam, step) * own if every <= _LARGEST else math.inf
    if weight > _LARGEST:
        raise ArgumentError(
            f"Expected a weight of {name!r} that is a number in float32, found every × lam × its own lam = "
            f"{weight:g}. Make them smaller."
        )
    return weight


def weigh(value: object, name: str, penalty: Penalty, lam: Lam, every: int, step: int) -> Tensor:
    """Return a penalty's value, which has to be a scalar, times `weight_at`, in float32."""
    if not isinstance(value, Tensor) or value.dim() != 0:
        raise ArgumentError(f"A penalty's value is a scalar tensor; {name!r} returned {in_words(value)}.")
    return weight_at(name, penalty, lam, every, step) * value.float()


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """The base of all penalties: derive from `ReadingPenalty` or `ParameterPenalty`."""

    needs_source: ClassVar[bool] = True
    """Whether the value depends on the source; without, no source is kept or run."""

    lam: Lam = 1.0

    def __post_init__(self) -> None:
        check_lam(self.lam)

    @property
    def name(self) -> str:
        """The key under which the attachment reports the value: the registered name."""
        return penalties.name_of(type(self)) or type(self).__name__.lower()


@dataclass(frozen=True, kw_only=True)
class ReadingPenalty(Penalty, ABC):
    """A penalty on what an extractor reads in the model and, if it `needs_source`, in the source.

    Attributes:
        layers: which blocks are read; {model's index: source's index} for a source of another depth.
        query: whose attention is read, where the extractor reads attention.
        align: "resample" brings the source's values to the model's patch grid where they differ (and the
            images to the source's own size); "exact" refuses.
        heads: "mean" compares the mean over attention heads, for a source with another number of heads.
    """

    is_mean: ClassVar[bool] = True
    """Whether the value is a mean over pictures, so that parts of a batch can stand for all of it."""

    runs_source: ClassVar[bool] = True
    """Whether a source that is needed runs on the pictures, or only something of it is looked at."""

    layers: Layers | LayerMap = "all"
    query: Query = "cls"
    align: Align = "exact"
    heads: Heads = "each"

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, choices in (("query", Query), ("align", Align), ("heads", Heads)):
            if getattr(self, option) not in get_args(choices):
                raise ArgumentError(
                    f"{option} must be one of {get_args(choices)}, got {getattr(self, option)!r}."
                )

    @property
    @abstractmethod
    def extractor(self) -> str:
        """The name of the extractor that is read."""

    @abstractmethod
    def value(self, target: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
        """Return the unweighted float32 scalar; `source` is empty unless it is needed."""

    def bound(self, model: Tower, source: Tower | None) -> ReadingPenalty:
        """Return this penalty as it is attached, with what it takes from the source beside readings."""
        return self


@dataclass(frozen=True, kw_only=True)
class GivenPenalty(ReadingPenalty, ABC):
    """A penalty that looks at what the caller of `penalty()` knows: labels, or where objects are."""

    needs: ClassVar[Literal["labels", "masks"]]
    """By which name it is given: `penalty(labels=…)` or `penalty(masks=…)`."""

    @abstractmethod
    def value(
        self, target: Sequence[Tensor], source: Sequence[Tensor], given: Sequence[Tensor] = ()
    ) -> Tensor:
        """Return the unweighted float32 scalar.

        Args:
            target: see `ReadingPenalty`.
            source: see `ReadingPenalty`.
            given: one tensor: the labels, [b] or soft [b, classes]; or one a block: how much of each patch
                the object covers, [b, p].
        """


@dataclass(frozen=True, kw_only=True)
class PassPenalty(ReadingPenalty, ABC):
    """A penalty on what several passes since the last penalty read; its `target` has one tensor a pass."""

    needs_source: ClassVar[bool] = False


def source_head(name: str, model: Tower, source: Tower | None) -> nn.Module:
    """Return the source's own head.

    Raises:
        UnsupportedModelError: the source has none, or is the model itself without its adapters.
    """
    if source is None or source.module is model.module:
        raise UnsupportedModelError(
            f"{name} needs the head that the source was pre-trained with; source='base' has the model's own. "
            "Pass the pre-trained model as the source."
        )
    head = source.module.get_submodule(source.heads[0]) if source.heads else nn.Identity()
    if isinstance(head, nn.Identity):
        raise UnsupportedModelError(
            f"{name} needs a source with a classifier of its own inside {type(source.module).__name__}; it "
            "has none. Create the source with its pre-trained head (timm: without num_classes=0)."
        )
    return head


def said_by(head: nn.Module, features: Tensor) -> Tensor:
    """Return what a frozen head says of features [b, d], in float32; gradients reach the features."""
    with without_autocast(features):
        weight = next(head.parameters())
        logits: Tensor = head(features.to(weight.dtype))
        return logits.float()


@dataclass(frozen=True, kw_only=True)
class ParameterPenalty(Penalty, ABC):
    """A penalty on the model's parameters and where they started; no forward pass is needed."""

    takes_shards: ClassVar[bool] = False  # whether it knows FSDP2's shards, as half_squared_norm does

    @abstractmethod
    def selects(self, name: str, parameter: Tensor) -> bool:
        """Return whether the parameter called `name` is penalised."""

    @abstractmethod
    def value(self, parameters: Sequence[Tensor], start: Sequence[Tensor], head: Sequence[Tensor]) -> Tensor:
        """Return the unweighted float32 scalar.

        Args:
            parameters: trained parameters that the source has too.
            start: their values in the source.
            head: trained parameters of the new head, which the source does not have.
        """


penalties: Registry[type[Penalty]] = Registry("penalty")

P = TypeVar("P", bound=type[Penalty])


def register_penalty(name: str) -> Callable[[P], P]:
    """Return a decorator that registers a penalty class, so that `attach(target=name)` finds it.

    Raises:
        ArgumentError: the name is taken, or what is decorated is no `Penalty` class.
    """

    def decorate(cls: P) -> P:
        if not (isinstance(cls, type) and issubclass(cls, Penalty)):
            raise ArgumentError(
                f"A penalty derives from vitreg.ReadingPenalty or vitreg.ParameterPenalty, got {cls!r}."
            )
        penalties.add(name, cls)
        return cls

    return decorate


def list_penalties() -> list[str]:
    """Return the names of the registered penalties, sorted."""
    return penalties.names()
