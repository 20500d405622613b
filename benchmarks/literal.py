"""Each penalty written literally, with loops in float64: what every faster writing has to equal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Box = tuple[int, int, int, int]
"""Top, bottom, left and right in pixels."""


def squared_distance(target: Sequence[Tensor], source: Sequence[Tensor], *, center: bool) -> Tensor:
    """Return the mean squared distance of two models' rows, [b, h, p] a block; `center` them first."""
    total, count = target[0].new_zeros((), dtype=torch.float64), 0
    for t, s in zip(target, source, strict=True):
        for image in range(t.shape[0]):
            for head in range(t.shape[1]):
                ours, theirs = t[image, head].double(), s[image, head].double()
                if center:
                    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
                total = total + ((ours - theirs) ** 2).sum()
                count += len(ours)
    return total / count


def l2sp(
    parameters: Sequence[Tensor], start: Sequence[Tensor], head: Sequence[Tensor], *, head_weight: float
) -> Tensor:
    """Return half the squared distance to the start, and `head_weight` times the head's half square."""
    total = parameters[0].new_zeros((), dtype=torch.float64)
    for parameter, origin in zip(parameters, start, strict=True):
        total = total + ((parameter.double() - origin.double()) ** 2).sum() / 2
    for parameter in head:
        total = total + head_weight * (parameter.double() ** 2).sum() / 2
    return total


def bss(features: Tensor, *, k: int) -> Tensor:
    """Return the sum of the squares of the k smallest singular values of `features` [b, d]."""
    singular = torch.linalg.svdvals(features.double())
    total = singular.new_zeros(())
    for i in range(1, k + 1):
        total = total + singular[-i] ** 2
    return total


def transmix_loss(
    logits: Tensor, labels: Tensor, query: Tensor, key: Tensor, *, box: Box, patch_size: int, smoothing: float
) -> Tensor:
    """Return TransMix's cross entropy for one box of a batch that was mixed with its reverse.

    Args:
        logits: of the classes, [b, c].
        labels: class indices, [b].
        query: the class token's of the last block, [b, h, d].
        key: the keys, [b, h, 1 + p, d].
        box: what came from the partner.
        patch_size: pixels a side; patches tile a square picture.
        smoothing: label smoothing.
    """
    b, num_classes = logits.shape
    _, num_heads, num_tokens, width = key.shape
    side = round((num_tokens - 1) ** 0.5)
    top, bottom, left, right = box
    area = (bottom - top) * (right - left) / (side * patch_size) ** 2
    total = logits.new_zeros((), dtype=torch.float64)
    for image in range(b):
        inside = everywhere = 0.0
        for head in range(num_heads):
            row = key[image, head].double() @ query[image, head].double() * width**-0.5
            attention = row.softmax(-1)[1:].tolist()
            for patch, share in enumerate(attention):
                y, x = patch // side * patch_size, patch % side * patch_size
                everywhere += share
                inside += share if top <= y < bottom and left <= x < right else 0.0
        partner_share = (area + inside / everywhere) / 2
        logs = logits[image].double().log_softmax(-1)
        for share, label in ((1 - partner_share, labels[image]), (partner_share, labels[b - 1 - image])):
            for c in range(num_classes):
                weight = smoothing / num_classes + (1 - smoothing if c == int(label) else 0.0)
                total = total - share * weight * logs[c] / b
    return total
