"""Blocks that run twice, return more, write into their tokens or merge them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import vitreg
from authors_code import dino
from laws import refuses
from structural_models import Vit
from vitreg import UnsupportedModelError
from vitreg.families import find_tower


class TwiceBlock(dino.Block):
    def forward(self, x: Tensor, return_attention: bool = False) -> Tensor:
        y, _ = self.attn(self.norm1(x))
        y, _ = self.attn(self.norm1(x + y))
        return x + y


class InPlaceBlock(dino.Block):
    def forward(self, x: Tensor, return_attention: bool = False) -> Tensor:
        x = x + 0
        x += self.attn(self.norm1(x))[0]
        x += self.mlp(self.norm2(x))
        return x


class TupleBlock(dino.Block):
    def forward(self, x: Tensor | tuple[Tensor, Tensor], return_attention: bool = False) -> Any:
        x = x[0] if isinstance(x, tuple) else x
        y, attention = self.attn(self.norm1(x))
        return x + y, attention


class MergingBlock(dino.Block):
    def forward(self, x: Tensor, return_attention: bool = False) -> Tensor:
        return super().forward(x)[:, :-1]


def test_a_block_that_runs_its_attention_twice() -> None:
    with refuses(UnsupportedModelError, "'layers.0'", "runs once", "more often"):
        vitreg.attach(Vit(block=TwiceBlock))


def test_blocks_that_return_more_than_tokens() -> None:
    model = Vit(block=TupleBlock)
    model.norm = Picking()
    returned: list[Any] = []
    find_tower(model)
    model.layers[0].register_forward_hook(lambda *seen: returned.append(seen[2]))
    with vitreg.trace(model, "block_output") as read:
        model(torch.randn(2, 3, 64, 64))
    assert torch.equal(read["block_output"][0], returned[0][0])


class Picking(nn.LayerNorm):
    def __init__(self) -> None:
        super().__init__(32)

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        return super().forward(x[0])


def test_blocks_that_write_into_their_tokens_are_a_chain() -> None:
    assert len(find_tower(Vit(block=InPlaceBlock)).blocks) == 2


def test_blocks_that_merge_tokens_are_refused() -> None:
    with refuses(UnsupportedModelError, "different numbers of tokens"):
        vitreg.attach(Vit(block=MergingBlock))


def test_blocks_that_run_twice_or_backwards_are_refused() -> None:
    class Loop(Vit):
        def forward(self, x: Tensor) -> Tensor:
            x = self.tokens(self, self.embed(x).flatten(2).transpose(1, 2))
            for layer in (*self.layers, *self.layers):
                x = layer(x)
            return x[:, 0]

    with refuses(UnsupportedModelError, "order [0, 1, 0, 1]"):
        vitreg.attach(Loop())


def test_blocks_in_several_places_are_no_tower() -> None:
    """Refuse hierarchies and decoders, of which one chain of blocks would be a part."""

    class Pyramid(Vit):
        def __init__(self) -> None:
            super().__init__()
            self.more = nn.ModuleList(dino.Block(32, 2) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x).flatten(2).transpose(1, 2)
            for layer in self.layers:
                x = layer(x)
            x = x.unflatten(1, (8, 2)).mean(2)
            for layer in self.more:
                x = layer(x)
            return x.mean(1)

    with refuses(UnsupportedModelError, "several places", "'layers.0', 'more.0'"):
        vitreg.attach(Pyramid())
