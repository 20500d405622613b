"""A penalty of a remembered source, and a count of the passes that it runs."""

from __future__ import annotations

from torch import Tensor, nn

import vitreg

SIZE = 12


def penalty(
    model: nn.Module,
    source: nn.Module | vitreg.FrozenSource,
    images: Tensor,
    views: object = None,
    target: object = "attn_logits",
    **options: object,
) -> Tensor:
    with vitreg.attach(model, source, target, **options) as attachment:
        model(images)
        return attachment.penalty(views=views)


class Passes:
    """Counts the source's passes and the pictures in them."""

    def __init__(self, source: vitreg.FrozenSource) -> None:
        self.sizes: list[int] = []
        source.tower.blocks[0].module.norm1.register_forward_pre_hook(
            lambda module, args: self.sizes.append(len(args[0]))
        )
