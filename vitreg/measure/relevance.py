"""Relevance: which patches a class follows from, by attention and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vitreg.errors import ArgumentError, UnsupportedModelError, in_words
from vitreg.extractors import check_query
from vitreg.families import find_tower
from vitreg.hooks import Hooks
from vitreg.measure.attention import check_images, picture_grid
from vitreg.measure.rollout import attention_receivers, check_all_tokens
from vitreg.sources.forward import evaluating
from vitreg.tracing import trace
from vitreg.types import Block, Query

_PROJECTIONS = ("proj", "out_proj", "o_proj")
_TOLERANCE = 1e-3


def relevance(
    model: nn.Module, images: Tensor, classes: Tensor | Sequence[int] | None = None, *, query: Query = "cls"
) -> Tensor:
    r"""Return how relevant each patch is for a class, [b, rows, columns].

    $$R \leftarrow R + \bar A R, \qquad \bar A = \frac1H \sum_h \left(\nabla A_h \odot A_h\right)^+$$

    from $R = I$ through all blocks, with $A_h$ the attention of all tokens in head $h$ of $H$ and $\nabla
    A_h$ the gradient of the class's logit; what is returned is the query's row.

    The attention matrices are formed, row by row, so it takes much longer than `attention_maps`. Nothing of
    the model is replaced: the gradient of the attention is that of the attention's output, brought back
    through its projection and the values.

    Args:
        model: a classifier that returns logits [b, classes], with a Vision Transformer inside.
        images: as it receives them, on its device, [b, c, height, width].
        classes: one a picture; by default what the model says.
        query: whose: "cls", or "mean" for all patches alike.

    Raises:
        ArgumentError: no batch of images, or not one class a picture.
        UnsupportedModelError: the model returns no logits, or what is between a block's heads and its output
            is more than a projection.

    Source: Chefer et al. 2021 (ICCV), "Generic Attention-model Explainability for Interpreting Bi-Modal and
    Encoder-Decoder Transformers", arXiv 2103.15679, Eqs. (5) and (6).
    """
    tower = find_tower(model)
    check_images(images)
    check_query(query)
    check_all_tokens(tower, query, "Relevance")
    matrices: list[Tensor] = []
    hooks = Hooks(
        pair
        for block in tower.blocks
        for pair in attention_receivers(block.reading, lambda matrix: matrices.append(matrix.detach()))
    )
    try:
        with evaluating(model), torch.enable_grad(), trace(model, "values", "msa_output") as read:
            logits = model(images.detach().requires_grad_())  # a frozen model has gradients, too
            outputs = read["msa_output"]
            chosen = _choose_classes(logits, classes, len(images))
            summed = logits.gather(1, chosen[:, None]).sum()
            gradients = torch.autograd.grad(summed, outputs, allow_unused=True)
            values = [value.detach() for value in read["values"]]
    finally:
        hooks.remove()
    prefix, n = tower.num_prefix_tokens, matrices[0].shape[-1]
    reached = torch.eye(n, device=images.device).expand(len(images), n, n)
    for block, *parts in zip(tower.blocks, matrices, values, outputs, gradients, strict=True):
        reached = reached + _relevant(block, *parts) @ reached
    rows = reached[:, :1] if query == "cls" else reached[:, prefix:]
    return rows.mean(1)[:, prefix:].unflatten(-1, picture_grid(tower, 0, query, images, n - prefix))


def _relevant(
    block: Block, attention: Tensor, values: Tensor, output: Tensor, gradient: Tensor | None
) -> Tensor:
    """Return the positive part of gradient times attention of a block, mean over heads, [b, n, n]."""
    module = next((getattr(block.attention, n) for n in _PROJECTIONS if hasattr(block.attention, n)), None)
    heads = rearrange(attention @ values.float(), "b h n d -> b n (h d)")
    if gradient is None or not isinstance(module, nn.Linear) or module.in_features != heads.shape[-1]:
        raise _unknown(block, "no projection of that width")
    weight, bias = module.weight.detach().float(), module.bias
    ours = F.linear(heads, weight, None if bias is None else bias.detach().float())
    error = (ours - output.detach().float()).abs().max()
    if not bool(error <= _TOLERANCE * output.detach().abs().max().clamp(min=1)):
        raise _unknown(block, f"another output (by {float(error):.2g})")
    of_heads = rearrange(gradient.float() @ weight, "b n (h d) -> b h n d", h=attention.shape[1])
    return (of_heads @ values.float().transpose(-1, -2) * attention).clamp(min=0).mean(1)


def _unknown(block: Block, found: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"Relevance needs attention whose heads are averaged, joined and projected; block {block.name!r} has "
        f"{found} ({type(block.attention).__name__}). Use attention_maps or attention_rollout."
    )


def _choose_classes(logits: object, classes: Tensor | Sequence[int] | None, num_images: int) -> Tensor:
    """Return the class of each picture, [b]."""
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise UnsupportedModelError(
            f"Relevance needs a model that returns logits [b, classes], found {in_words(logits)}. Pass the "
            "classifier."
        )
    if classes is None:
        return logits.detach().argmax(1)
    chosen = torch.as_tensor(classes, device=logits.device)
    if chosen.shape != (num_images,) or chosen.is_floating_point() or int(chosen.max()) >= logits.shape[1]:
        raise ArgumentError(
            f"Expected one class below {logits.shape[1]} for each of {num_images} pictures, found {classes}."
        )
    return chosen
