"""How the classes of a task relate to those of a source, and which channels of it matter to them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vitreg.errors import ArgumentError
from vitreg.extractors import blocks_read
from vitreg.families import find_tower
from vitreg.functional.precision import autocast_now
from vitreg.measure.attention import check_images
from vitreg.reader import Reader
from vitreg.sources.forward import evaluating, run_tower
from vitreg.tracing import trace
from vitreg.types import Layers

TEMPERATURE = 5.0
"""By what standardised rises are divided before their softmax: the authors' number."""

Batches = Iterable[tuple[Tensor, Tensor]]
"""Pictures [b, c, height, width] with labels [b], a batch after the other; more in a batch is left alone."""


def class_relation(source: nn.Module, loader: Batches, num_classes: int) -> Tensor:
    r"""Return how probable each of the source's classes is where a label is given, $p(y_S \mid y)$.

    It is the mean of what the source's own head says of the pictures of each class, after the softmax.

    Args:
        source: a model with the head that it was pre-trained with.
        loader: batches that begin with pictures and labels, evaluated as the source expects them.
        num_classes: of the labels.

    Returns:
        [classes, classes of the source], rows that sum to 1, in float32 on the source's device.

    Raises:
        ArgumentError: a class without a picture, or labels beyond the classes.
        UnsupportedModelError: the source has no head.

    Source: You et al. 2020 (NeurIPS), "Co-Tuning for Transfer Learning", the direct approach,
    https://github.com/thuml/CoTuning
    """
    # NOTE[DIFF]: the authors' code learns the reverse relation by default, and scales the source's
    # logits first, by 0.884 for its ResNet-50; this is its direct approach, without a held-out set.
    tower = find_tower(source)
    indices = blocks_read("class_logits", "all", "cls", tower)
    reader = Reader(tower, {("class_logits", "cls"): indices}, stop=True)
    device = next(tower.module.parameters()).device
    sums, counts = torch.zeros((), device=device), torch.zeros(num_classes, device=device)
    try:
        with evaluating(tower.module):
            for images, labels, *_ in loader:
                check_images(images)
                images, labels = images.to(device), labels.to(device)
                run_tower(reader, images, autocast_now(images))
                said = reader.of(("class_logits", "cls"), indices)[0].float().softmax(-1)
                if int(labels.max()) >= num_classes:
                    raise ArgumentError(f"Expected labels below {num_classes}, found {int(labels.max())}.")
                sums = sums if sums.dim() else said.new_zeros(num_classes, said.shape[1])
                sums.index_add_(0, labels, said)
                counts += torch.bincount(labels, minlength=num_classes)
    finally:
        reader.remove()
    if not bool(counts.all()):
        empty = (counts == 0).nonzero().flatten().tolist()
        raise ArgumentError(
            f"Expected pictures of each of {num_classes} classes, found no picture of class "
            f"{', '.join(map(str, empty))}. Estimate the relation on all training pictures."
        )
    return sums / counts[:, None]


def channel_weights(model: nn.Module, loader: Batches, *, layers: Layers = "spread") -> list[Tensor]:
    r"""Return how much each channel of what blocks return matters to the labels, for `DELTA`.

    $$w_c = \mathrm{softmax}_c\!\left(\frac{r_c - \bar r}{5\, \mathrm{sd}(r)}\right), \qquad
    r_c = \mathbb E\left[-\sum_i f_{i,c}\, \partial_{f_{i,c}} \mathcal L\right]$$

    with $f_{i,c}$ channel $c$ of token $i$ and $\mathcal L$ the cross-entropy, which would rise by $r_c$, to
    first order, if the channel were zero. Mean and deviation are over the channels.

    Args:
        model: the source with a head for these labels, such as the linear probe (`vitreg.fit_head`).
        loader: batches that begin with pictures and labels.
        layers: which blocks, as the penalty reads them.

    Returns:
        one tensor [d] a block, which sums to 1, in float32.

    Source: Li et al. 2019 (ICLR), "DELTA", arXiv 1901.09229; mean, deviation and 5 are those of
    https://github.com/lixingjian/DELTA, without which the weights of a ViT hardly differ.
    """
    # NOTE[DIFF]: the authors run the model once for each channel, with that channel at zero; to first order
    # one backward pass says the same of all channels.
    totals: list[Tensor] = []
    num_images, device = 0, next(model.parameters()).device
    with evaluating(model), torch.enable_grad(), trace(model, "block_output", layers=layers) as read:
        for images, labels, *_ in loader:
            check_images(images)
            images = images.to(device)
            logits = model(images.detach().requires_grad_())  # so that a frozen model has gradients too
            loss = nn.functional.cross_entropy(logits.float(), labels.to(logits.device), reduction="sum")
            blocks = read["block_output"]
            gradients = torch.autograd.grad(loss, blocks)
            rises = [
                -(block.detach().float() * gradient.float()).flatten(0, -2).sum(0)
                for block, gradient in zip(blocks, gradients, strict=True)
            ]
            totals = [a + b for a, b in zip(totals, rises, strict=True)] if totals else rises
            num_images += len(images)
    if not num_images:
        raise ArgumentError("Expected at least one batch of pictures, found none.")
    return [_standardised(total).div(TEMPERATURE).softmax(0) for total in totals]


def _standardised(values: Tensor) -> Tensor:
    """Return values [d] with mean 0 and deviation 1, zeros where all are the same."""
    spread = values.std(correction=0)
    return (values - values.mean()) / torch.where(spread > 0, spread, 1.0)
