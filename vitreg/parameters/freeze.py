"""Train a part of a Vision Transformer only."""

from __future__ import annotations

from types import TracebackType
from typing import Literal, get_args

from torch import nn

from vitreg.errors import ArgumentError, UnsupportedModelError
from vitreg.families import find_tower
from vitreg.parameters.heads import head_parameters
from vitreg.types import NewHead

Part = Literal["attention", "ffn", "head"]
"""The part of a model that `freeze` leaves trainable."""


def freeze(model: nn.Module, train: Part, *, new_head: NewHead | None = None) -> Freeze:
    """Freeze all of `model` except one part, and return an object that undoes it.

    - "attention": the attention modules, the position embedding and the task head are trained.
    - "ffn": the feed-forward networks, the position embedding and the task head.
    - "head": the task head alone (a linear probe).

    Use the result as a context manager, or call its `restore()`.

    Args:
        model: a Vision Transformer or any module with one inside.
        train: which part.
        new_head: names of the modules or parameters inside `model` that are the head. By default the
            classifier of the Vision Transformer and what stands outside of it, other than what is known to
            come pre-trained: the rest of a CLIP model, other models of timm, torchvision or transformers.

    Raises:
        ArgumentError: `train` or `new_head` is unknown, or nothing would be trained.
        UnsupportedModelError: a block has no attention or feed-forward network that vitreg knows.

    Source: Touvron et al. 2022 (ECCV), "Three things everyone should know about Vision Transformers",
    attention only, arXiv 2203.09795.
    """
    # NOTE[DIFF]: "ffn" has no reference code; it mirrors "attention". Patch embedding, norms, class token and
    # LayerScale are frozen in both.
    if train not in get_args(Part):
        raise ArgumentError(f"train must be one of {get_args(Part)}, got {train!r}.")
    tower = find_tower(model)
    trained = {id(p) for p in head_parameters(model, tower, new_head)}
    if train != "head":
        for block in tower.blocks:
            part = block.attention if train == "attention" else block.ffn
            if part is None or part is block.module:  # computed inside the block, beside other things
                raise UnsupportedModelError(
                    f"Block {block.name!r} of {type(tower.module).__name__} has no separate "
                    f"{'attention' if train == 'attention' else 'feed-forward network'} to train."
                )
            trained |= {id(p) for p in part.parameters()}
        trained |= {id(tower.module.get_parameter(name)) for name in tower.position_embeddings}
    if not trained:
        raise ArgumentError(
            f"freeze(train={train!r}) would leave nothing to train: {type(model).__name__} has no task head. "
            "Put the model into a module with a head, create it with num_classes, or name the head: "
            "new_head='classifier'."
        )
    return Freeze(model, trained)


class Freeze:
    """Parameters that were frozen, and how they were before; made by `freeze`."""

    def __init__(self, model: nn.Module, trained: set[int]) -> None:
        self._before = [(p, p.requires_grad) for p in model.parameters()]
        for parameter, required in self._before:
            parameter.requires_grad_(required and id(parameter) in trained)

    def restore(self) -> None:
        """Give every parameter the `requires_grad` that it had; calling it again does nothing."""
        while self._before:
            parameter, required = self._before.pop()
            parameter.requires_grad_(required)

    def __enter__(self) -> Freeze:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.restore()
