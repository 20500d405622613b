"""The penalties that `penalties.py` compares, each in three writings on given tensors."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.data.mixup import mixup_target
from torch import Tensor

import literal
from rivals import half_squares_in_a_loop, smallest_by_svd
from training import make_model
from vitreg import BSS, GTA, L2SP
from vitreg.functional import attention_share, box_on_grid, query_key_logits

PATCH_SIZE = 16
SMOOTHING = 0.1
Writing = Callable[[], Tensor]


class Problem(NamedTuple):
    """A penalty on given tensors.

    Attributes:
        leaves: the tensors to which the gradient is taken.
        vitreg: the penalty as the library computes it.
        reference: as papers or popular code compute it.
        literal: in loops and float64.
        tolerance: the largest relative difference from `literal`, of the value and of the gradient.
    """

    leaves: list[Tensor]
    vitreg: Writing
    reference: Writing
    literal: Writing
    tolerance: float


def gta(options: argparse.Namespace, *, center: bool) -> Problem:
    """Return the squared distance of the [CLS] logits of all blocks, [b, h, p] each."""
    shape = (options.batch_size, options.heads, options.grid**2)
    return _guide(options, shape, GTA(center=center), center=center)


def _guide(options: argparse.Namespace, shape: tuple[int, ...], penalty: GTA, *, center: bool) -> Problem:
    target = [_random(options, *shape).requires_grad_() for _ in range(options.blocks)]
    source = [t.detach() + 0.1 * _random(options, *shape) for t in target]

    def reference() -> Tensor:
        total = torch.zeros((), device=options.device)
        for t, s in zip(target, source, strict=True):
            if center:
                t, s = t - t.mean(-1, keepdim=True), s - s.mean(-1, keepdim=True)
            total = total + F.mse_loss(t, s)
        return total / len(target)

    return Problem(
        target,
        lambda: penalty.value(target, source),
        reference,
        lambda: literal.squared_distance(target, source, center=center),
        tolerance=1e-5,
    )


def l2sp(options: argparse.Namespace) -> Problem:
    """Return L2-SP on the weights of a whole model that has moved a little."""
    named = dict(make_model(options.model, size=options.size).to(options.device).named_parameters())
    penalty = L2SP()
    head = [p for name, p in named.items() if name.startswith("head.") and penalty.selects(name, p)]
    weights = [p for name, p in named.items() if not name.startswith("head.") and penalty.selects(name, p)]
    start = [p.detach() + 0.01 * torch.randn_like(p) for p in weights]

    def reference() -> Tensor:
        zeros = ((p, torch.zeros_like(p)) for p in head)
        pulled = half_squares_in_a_loop(zip(weights, start, strict=True))
        return pulled + penalty.head * half_squares_in_a_loop(zeros)

    return Problem(
        [*weights, *head],
        lambda: penalty.value(weights, start, head),
        reference,
        lambda: literal.l2sp(weights, start, head, head_weight=penalty.head),
        tolerance=1e-4,  # float32 norms of up to a million elements
    )


def bss(options: argparse.Namespace) -> Problem:
    """Return BSS on random features."""
    features = _random(options, *options.features).requires_grad_()
    return Problem(
        [features],
        lambda: BSS().value([features]),
        lambda: smallest_by_svd(features, k=1),
        lambda: literal.bss(features, k=1),
        tolerance=1e-3,  # the smallest of many singular values, in float32
    )


def transmix(options: argparse.Namespace) -> Problem:
    """Return the loss with labels weighted by attention, from queries, keys and a box to class logits."""
    b, num_heads, num_tokens = options.batch_size, options.heads, options.grid**2 + 1
    query, key = (_random(options, b, num_heads, num_tokens, 64) for _ in range(2))
    logits = _random(options, b, 100).requires_grad_()
    labels = torch.arange(b, device=options.device) % 100
    size = options.grid * PATCH_SIZE
    box = (size // 7, size // 2, size // 5, size - size // 4)
    return Problem(
        [logits],
        lambda: F.cross_entropy(logits, transmix_labels(query, key, labels, box, size=size)),
        lambda: F.cross_entropy(logits, _full_attention_labels(query, key, labels, box, size=size)),
        lambda: literal.transmix_loss(
            logits, labels, query[:, :, 0], key, box=box, patch_size=PATCH_SIZE, smoothing=SMOOTHING
        ),
        tolerance=1e-5,
    )


def transmix_labels(query: Tensor, key: Tensor, labels: Tensor, box: literal.Box, *, size: int) -> Tensor:
    """Return the soft labels [b, 100] by the functions and in the order of `vitreg.TransMix.labels`.

    `query` and `key` are those of the last block, [b, h, 1 + p, d]; the picture has `size` pixels a side.
    """
    row = query_key_logits(query[:, :, 0], key, scale=query.shape[-1] ** -0.5)
    attention = row.softmax(-1)[..., 1:].mean(1)
    grid = (size // PATCH_SIZE, size // PATCH_SIZE)
    share = attention_share(
        attention, box_on_grid(size, size, box, grid).to(attention.device, non_blocking=attention.is_cuda)
    )
    own_share = 1 - (_area(box, size) + share) / 2
    soft: Tensor = mixup_target(labels, 100, own_share[:, None], SMOOTHING)
    return soft


def _area(box: literal.Box, size: int) -> float:
    """Return the box's share of a picture of `size` pixels a side."""
    return (box[1] - box[0]) * (box[3] - box[2]) / size**2


def _full_attention_labels(
    query: Tensor, key: Tensor, labels: Tensor, box: literal.Box, *, size: int
) -> Tensor:
    """Return the same from the softmax of the whole attention, as the authors' code computes it."""
    attention = ((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)).softmax(-1)
    row = attention.mean(1)[:, 0, 1:]
    mask = torch.zeros(1, 1, size, size, device=row.device)
    mask[..., box[0] : box[1], box[2] : box[3]] = 1
    mask = F.interpolate(mask, size=(size // PATCH_SIZE, size // PATCH_SIZE), mode="nearest").flatten(1)
    own, partner = ((1 - mask) * row).sum(-1), (mask * row).sum(-1)
    share = (own / (own + partner) + 1 - _area(box, size)) / 2
    soft: Tensor = mixup_target(labels, 100, share[:, None], SMOOTHING)
    return soft


def _random(options: argparse.Namespace, *shape: int) -> Tensor:
    return torch.randn(*shape, device=options.device)


PROBLEMS: dict[str, Callable[[argparse.Namespace], Problem]] = {
    "GTA": lambda options: gta(options, center=False),
    "GTA, centred": lambda options: gta(options, center=True),
    "L2-SP": l2sp,
    "BSS": bss,
    "TransMix": transmix,
}
