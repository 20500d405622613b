"""Whether a training was too short or went too far, in a sentence, from its own losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from vitreg.train.training.hyperparameters import Hyperparameters

STILL_FALLING = 0.1
"""By what share of itself the training loss falls in the last quarter of a training that was too short."""


def smoothing_floor(smoothing: float, num_classes: int) -> float:
    r"""Return the smallest cross-entropy that smoothed labels allow: their own entropy.

    $$-t \log t - (c - 1)\,(\epsilon / c) \log(\epsilon / c), \quad t = 1 - \epsilon + \epsilon / c$$

    for a smoothing ε of c classes.
    """
    if smoothing == 0:
        return 0.0
    other = smoothing / num_classes
    true = 1 - smoothing + other
    return -true * math.log(true) - (num_classes - 1) * other * math.log(other)


def describe_losses(
    log: Sequence[dict[str, float]],
    hyper: Hyperparameters,
    num_classes: int,
    *,
    held_out: float | None = None,
    held_out_before: float | None = None,
) -> str:
    """Return whether a training is under-trained, over-fitted or neither, in a sentence with its losses.

    Training losses are given without what smoothed labels add to every one of them. A training is over-fitted
    if it made the loss of held-out pictures larger than it was before, and that of the training pictures
    smaller; it is under-trained if its loss still fell by more than a tenth in its last quarter.

    Args:
        log: the loss now and then, from the first step to the last.
        hyper: with its label smoothing.
        num_classes: of the task.
        held_out: the mean cross-entropy of pictures that were held out, after a training as this one.
        held_out_before: the same of the model that it started from, such as the linear probe.
    """
    floor = smoothing_floor(hyper.smoothing, num_classes)
    losses = [max(entry["loss"] - floor, 0.0) for entry in log if "loss" in entry]
    quarter = max(1, len(losses) // 4)
    first, before, last = losses[:quarter], losses[-2 * quarter : -quarter], losses[-quarter:]
    if not before:
        return "too few steps to tell from the losses whether this is under-trained or over-fitted"
    course = f"training loss {fmean(first):.2f} → {fmean(last):.2f}"
    if held_out is not None and held_out_before is not None:
        course += f", held-out loss {held_out_before:.2f} → {held_out:.2f}"
        if held_out > held_out_before and fmean(last) < fmean(first):
            return f"over-fitted ({course}): try fewer --epochs, a smaller --lr or a larger --lam"
    if fmean(last) < (1 - STILL_FALLING) * fmean(before) and fmean(last) > 0.01:
        return f"under-trained, the loss was still falling ({course}): try more --epochs"
    if fmean(last) >= fmean(first) > 0.01:
        return f"under-trained, the loss did not fall ({course}): try another --lr or more --epochs"
    return f"neither under-trained nor over-fitted ({course})"
