"""Whether what was read depends on something that is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


def depend_on_weights(values: Iterable[Tensor], given: Iterable[Tensor]) -> bool:
    """Return whether a gradient of `values` reaches anything but what the model was `given`.

    Weights need not be registered in the model, as those of an adapter in a hook are not; and images may
    require a gradient themselves, as for a saliency map. So the values' graph is walked to its leaves.
    """
    images = {tensor.data_ptr() for tensor in given}
    return any(leaf.data_ptr() not in images for leaf in _leaves(values))


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
