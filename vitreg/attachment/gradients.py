"""Whether what was read depends on something that is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from vitreg.types import Tower


def depend_on_weights(values: Iterable[Tensor], given: Iterable[Tensor]) -> bool:
    """Return whether a gradient of `values` reaches anything but what the model was `given`.

    Weights need not be registered in the model, as those of an adapter in a hook are not; and images may
    require a gradient themselves, as for a saliency map. So the values' graph is walked to its leaves.
    """
    images = {tensor.data_ptr() for tensor in given}
    return any(leaf.data_ptr() not in images for leaf in _leaves(values))


def trained_before(tower: Tower, last: int | None) -> bool:
    """Return whether something is trained that block `last` of a tower depends on; None is its output.

    This is what enters the blocks, and the blocks up to that one. If it is trained, and a value has no
    gradient, something cuts the gradient off.
    """
    module = tower.module
    heads = {id(p) for name in tower.heads for p in module.get_submodule(name).parameters()}
    if last is None:
        return any(p.requires_grad for p in module.parameters() if id(p) not in heads)
    named = dict(module.named_parameters())  # within functional_call they are no parameters
    own = [
        p
        for name, p in named.items()
        if name in tower.position_embeddings or ("." not in name and not _projects(p, tower.width))
    ]
    parts = (tower.stem, *(block.module for block in tower.blocks[: last + 1]))
    before = (*own, *(p for part in parts for p in part.parameters()))
    return any(p.requires_grad for p in before if id(p) not in heads)


def _projects(parameter: Tensor, width: int) -> bool:
    """Return whether a tower's own parameter is the matrix behind its blocks, as in CLIP's, no token."""
    return parameter.dim() == 2 and parameter.shape[0] == width


def _leaves(values: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the leaves that `values` have a gradient to."""
    if torch.compiler.is_compiling():
        return
    yield from (value for value in values if value.requires_grad and value.grad_fn is None)
    nodes: list[Any] = [value.grad_fn for value in values if value.grad_fn is not None]
    known = set(nodes)
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            yield node.variable
        for following, _ in node.next_functions:
            if following is not None and following not in known:
                known.add(following)
                nodes.append(following)
