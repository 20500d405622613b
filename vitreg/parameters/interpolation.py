"""Weights between two models, and the mean of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from vitreg.errors import ArgumentError, MismatchError, UnsupportedModelError, in_words

State: TypeAlias = "nn.Module | Mapping[str, Tensor]"
"""A model, or its state dict."""

ALPHAS = tuple(step / 10 for step in range(11))
"""The shares of the fine-tuned model along the curve, from the start to it."""

T = TypeVar("T")


def interpolate(model: nn.Module, source: State, alpha: float = 0.5) -> None:
    r"""Move the weights of `model` to between those of `source` and its own, in place (WiSE-FT).

    $$\theta \leftarrow (1 - \alpha)\, \theta_\text{source} + \alpha\, \theta_\text{model}$$

    At α = 0 the model has the source's values and at α = 1 it keeps its own, both bit for bit. It is computed
    in float32, or in float64 for weights of that type. Floating-point buffers are moved like weights; others,
    such as counters, stay the model's unless α = 0. What has the same value at both ends keeps it.

    A head is needed at both ends. The model's start has one if it was a probe: keep a copy of the model
    before training, fitted by `vitreg.fit_head`.

    Args:
        model: the fine-tuned model; its parameters stay the same objects.
        source: the model that it started from, or its state dict, with the same names and shapes.
        alpha: the share α of the fine-tuned model, from 0 to 1.

    Raises:
        ArgumentError: `alpha` is no number from 0 to 1, or `source` is neither model nor state dict.
        MismatchError: a weight is missing at one end, or has another shape there.
        UnsupportedModelError: the weights are sharded, or the model has adapters that are not merged: the
            product of interpolated factors is not the interpolated weight.

    Source: Wortsman et al. 2022 (CVPR), "Robust fine-tuning of zero-shot models", arXiv 2109.01903.
    """
    # NOTE[DIFF]: WiSE-FT's start has a zero-shot head made of texts; here it is whatever the source has, the
    # linear probe's in the trainer.
    _write(model, _state(model, "model"), _state(source, "source"), alpha)


def interpolation_curve(
    model: nn.Module,
    source: State,
    evaluate: Callable[[nn.Module], T],
    alphas: Sequence[float] = ALPHAS,
) -> dict[float, T]:
    """Return what `evaluate` says of the model at each α between `source` and `model`, see `interpolate`.

    The model has its own weights again afterwards, also if `evaluate` raises.

    Args:
        model: the fine-tuned model.
        source: the model that it started from, or its state dict.
        evaluate: takes the model with interpolated weights, and returns an accuracy, or anything else.
        alphas: the shares of the fine-tuned model, each from 0 to 1.

    Raises:
        ArgumentError: as in `interpolate`.
        MismatchError: as in `interpolate`.
        UnsupportedModelError: as in `interpolate`.

    Source: Wortsman et al. 2022 (CVPR), arXiv 2109.01903.
    """
    start = _state(source, "source")
    end = {name: value.clone() for name, value in _state(model, "model").items()}
    found: dict[float, T] = {}
    try:
        for alpha in alphas:
            _write(model, end, start, alpha)
            found[alpha] = evaluate(model)
    finally:
        _copy(model.state_dict(), end)
    return found


def uniform_soup(models: Sequence[State]) -> dict[str, Tensor]:
    r"""Return the mean of several models' weights, as a state dict for `model.load_state_dict`.

    $$\theta = \frac{1}{k} \sum_i \theta_i$$

    The models are runs of one architecture from the same start, such as seeds or learning rates; then the
    mean is often better than the best of them, at the cost of one. It is computed in float64; buffers that
    are not floating-point are the first model's. The soup of one model, or of equal ones, has the same bits.

    Args:
        models: models or state dicts, at least one, with the same names and shapes.

    Raises:
        ArgumentError: there is none, or one is neither model nor state dict.
        MismatchError: a weight is missing in one of them, or has another shape there.
        UnsupportedModelError: the weights are sharded, or a model has adapters that are not merged.

    Source: Wortsman et al. 2022 (ICML), "Model soups", arXiv 2203.05482, uniform soup.
    """
    if not models:
        raise ArgumentError("uniform_soup takes at least one model, got none.")
    first, *others = (_state(model, f"models[{index}]") for index, model in enumerate(models))
    for index, other in enumerate(others, start=1):
        _check_match(first, other, f"models[{index}]")
    soup: dict[str, Tensor] = {}
    for name, value in first.items():
        values = [other[name].to(value.device) for other in others]
        if not value.is_floating_point() or all(torch.equal(value, one) for one in values):
            soup[name] = value.clone()
        else:
            total = torch.stack([one.to(_precise(value)) for one in (value, *values)]).mean(0)
            soup[name] = total.to(value.dtype)
    return soup


def _state(model: State, name: str) -> dict[str, Tensor]:
    """Return the tensors of a model or state dict by name, as they are."""
    if isinstance(model, nn.Module):
        if any(callable(getattr(module, "enable_adapters", None)) for module in model.modules()):
            raise UnsupportedModelError(
                f"Expected weights that can be added up, found adapters in {type(model).__name__}: the mean "
                "of their factors is not the mean of what they add. Call merge_and_unload() first."
            )
        state = model.state_dict()
    elif isinstance(model, Mapping):
        state = dict(model)
    else:
        raise ArgumentError(f"{name} must be a model or its state dict, got {in_words(model)}.")
    state = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if any(hasattr(value, "placements") for value in state.values()):
        raise UnsupportedModelError(
            f"Expected weights that are whole, found sharded ones (FSDP2) in {name}. Take the whole "
            "state dict."
        )
    return {key: value.detach() for key, value in state.items()}


def _check_match(state: Mapping[str, Tensor], other: Mapping[str, Tensor], place: str) -> None:
    """Raise `MismatchError` unless both have the same names and shapes."""
    for name in dict.fromkeys((*state, *other)):
        own, found = (one[name].shape if name in one else None for one in (state, other))
        if own != found:
            words = ["nothing" if shape is None else f"{list(shape)}" for shape in (own, found)]
            raise MismatchError(
                f"Expected {name!r} to be the same weight at both ends, found {words[0]} in the model and "
                f"{words[1]} in {place}. Between them every weight is needed, the new task's head too: take "
                "a copy of the model from before training, with its head fitted by vitreg.fit_head."
            )


def _write(model: nn.Module, end: Mapping[str, Tensor], start: Mapping[str, Tensor], alpha: float) -> None:
    """Write the weights at `alpha` between `start` and `end` into the model."""
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
        raise ArgumentError(f"alpha must be a number from 0 to 1, got {alpha!r}.")
    _check_match(end, start, "the source")
    _copy(model.state_dict(), {name: _between(start[name], value, alpha) for name, value in end.items()})


def _between(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    start = start.to(end.device)
    if alpha == 0:
        return start
    if alpha == 1 or not end.is_floating_point():
        return end
    # Equal values are kept: infinities, as in a mask, would have no difference.
    precise = torch.float64 if end.dtype == torch.float64 else torch.float32
    between = torch.lerp(start.to(precise), end.to(precise), alpha)
    return torch.where(start == end, end, between.to(end.dtype))


def _copy(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)


def _precise(value: Tensor) -> torch.dtype:
    return torch.float32 if value.device.type == "mps" else torch.float64
