"""A tower that nobody registered is taken for what runs of a copy show it to be, and for nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitreg
from authors_code import dino, dinov3, monai
from laws import refuses, unchanged
from small_models import shake
from softmax_recorder import SoftmaxRecorder
from vitreg import UnsupportedModelError
from vitreg.families import find_tower

Tokens = Callable[[nn.Module, Tensor], Tensor]


class Vit(nn.Module):
    """A small tower; how patches become tokens, and what a block does, are arguments."""

    def __init__(self, tokens: Tokens | None = None, block: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 32, 16, 16)
        self.cls = nn.Parameter(torch.zeros(1, 1, 32))
        self.pos = nn.Parameter(torch.zeros(1, 16, 32))
        self.layers = nn.ModuleList((block or dino.Block)(32, 2) for _ in range(2))
        self.norm, self.classifier = nn.LayerNorm(32), nn.Linear(32, 5)
        self.tokens = tokens or class_token_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(self, self.embed(x).flatten(2).transpose(1, 2) + self.pos)
        for layer in self.layers:
            x = layer(x)
        return self.classifier(self.norm(x)[:, 0])


def class_token_first(self: Any, x: Tensor) -> Tensor:
    return torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)


def class_token_last(self: Any, x: Tensor) -> Tensor:
    return torch.cat([x, self.cls.expand(len(x), -1, -1)], dim=1)


def patches_only(self: Any, x: Tensor) -> Tensor:
    return x


def column_by_column(self: Any, x: Tensor) -> Tensor:
    return class_token_first(self, x.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2))


def shuffled(self: Any, x: Tensor) -> Tensor:
    return class_token_first(self, x[:, torch.randperm(16)])


def dropped_in_training(self: Any, x: Tensor) -> Tensor:
    return class_token_first(self, x[:, torch.randperm(16).sort().values[:8]] if self.training else x)


def shuffled_in_training(self: Any, x: Tensor) -> Tensor:
    return class_token_first(self, x[:, torch.randperm(16)] if self.training else x)


def dropped_by_content(self: Any, x: Tensor) -> Tensor:
    best = x.norm(dim=-1).topk(8, dim=1).indices
    return class_token_first(self, x.gather(1, best[..., None].expand(-1, -1, 32)))


def merged(self: Any, x: Tensor) -> Tensor:
    return class_token_first(self, x.unflatten(1, (8, 2)).mean(2))


def normalised_over_the_picture(self: Any, x: Tensor) -> Tensor:
    return class_token_first(self, x - x.mean(1, keepdim=True))


def test_what_the_shape_says() -> None:
    found = find_tower(nn.Sequential(Vit(), nn.Identity()))
    assert found.name == "0"
    assert (found.num_prefix_tokens, found.has_class_token, found.grid) == (1, True, (4, 4))
    assert (found.patch_size, found.width, found.batch_first) == ((16, 16), 32, True)
    assert (found.heads, found.position_embeddings) == (("classifier",), ("pos",))
    assert found.stem is found.module.embed
    assert [block.name for block in found.blocks] == ["layers.0", "layers.1"]
    assert [block.ffn for block in found.blocks] == [layer.mlp for layer in found.module.layers]
    assert found.home is found.module


def test_no_class_token() -> None:
    found = find_tower(Vit(patches_only))
    assert (found.num_prefix_tokens, found.has_class_token) == (0, False)


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        (class_token_last, "do not stand before"),
        (column_by_column, "row by row"),
        (shuffled, "row by row"),
        (dropped_in_training, r"in training mode, its tokens \[3, 17, 32\] become \[3, 9, 32\]"),
        (shuffled_in_training, "in training mode, its tokens are not"),
        (dropped_by_content, "tokens"),
        (merged, "is no grid"),
        (normalised_over_the_picture, "row by row"),
    ],
)
def test_tokens_that_are_not_the_patches_are_refused(tokens: Tokens, why: str) -> None:
    model = Vit(tokens)
    with unchanged(model), pytest.raises(UnsupportedModelError, match=why) as caught:
        vitreg.attach(model)
    assert "register_tower" not in str(caught.value), "registering it would hide what is wrong"


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


def test_two_towers() -> None:
    with refuses(UnsupportedModelError, "found 2", "'0' (Vit)", "'1' (Vit)", "Pass the one"):
        vitreg.attach(nn.Sequential(Vit(), Vit()))


def test_the_remedy_of_a_tower_that_cannot_be_tried_is_enough() -> None:
    class Labelled(Vit):
        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return super().forward(x) + 0 * labels.sum()

    model = shake(Labelled())
    with refuses(UnsupportedModelError, "Labelled", "does not run on pictures alone", "register_tower"):
        vitreg.attach(model)
    with pytest.raises(UnsupportedModelError) as caught:
        vitreg.attach(model)
    message, _, code = str(caught.value).partition("\n")
    assert "register_family" not in message + code
    assert len(code.splitlines()) == 9
    exec("\n".join(line[2:] for line in code.splitlines()), {"vitreg": vitreg, "Labelled": Labelled})
    with SoftmaxRecorder() as recorder, vitreg.trace(model, "attn_logits") as read:
        find_tower(model)
        recorder.logits.clear()
        model(torch.randn(2, 3, 64, 64), torch.zeros(2))
    torch.testing.assert_close(read["attn_logits"][1], recorder.logits[1][:, :, 0, 1:], atol=1e-5, rtol=1e-5)


def test_trying_leaves_no_trace() -> None:
    model, seen = Vit(), []
    model.norm.register_forward_hook(lambda *_: seen.append(1))
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    vitreg.describe(model)
    assert not seen, "a hook of the user's ran"
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


def test_each_structure_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from vitreg.families.structure import tower

    tried: list[nn.Module] = []
    original = tower.make_plan
    monkeypatch.setattr(tower, "make_plan", lambda m, links: tried.append(m) or original(m, links))
    model = Vit()
    vitreg.describe(model)
    vitreg.describe(model)
    assert tried == [model]
    model.classifier = nn.Identity()
    assert vitreg.describe(model).num_blocks == 2
    assert tried == [model, model]


def test_a_model_on_the_meta_device_cannot_be_tried() -> None:
    with torch.device("meta"):
        model = Vit()
    with refuses(UnsupportedModelError, "meta device", "register_tower"):
        vitreg.describe(model)


def test_pictures_with_depth_are_refused() -> None:
    model = monai.ViT()
    model.patch_embedding.patch_embeddings = nn.Conv3d(3, 32, 16, 16)
    with refuses(UnsupportedModelError, "no patch embedding of flat pictures", "register_tower"):
        vitreg.describe(model)


@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("sine_first", [True, False])
def test_rotary_attention_of_one_s_own(
    halves: bool, sine_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turn(x: Tensor) -> Tensor:
        if halves:
            return torch.cat([-x[..., 8:], x[..., :8]], dim=-1)
        return torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)

    monkeypatch.setattr(dinov3, "rope_rotate_half", turn)
    if not sine_first:
        original = dinov3.SelfAttention.apply_rope
        monkeypatch.setattr(
            dinov3.SelfAttention, "apply_rope", lambda s, q, k, rope: original(s, q, k, rope[::-1])
        )
    model = shake(dinov3.DinoVisionTransformer())
    find_tower(model)
    with SoftmaxRecorder() as recorder, vitreg.trace(model, "attn_logits", query="mean") as read:
        model(torch.randn(2, 3, 64, 64))
    for ours, whole in zip(read["attn_logits"], recorder.logits, strict=True):
        torch.testing.assert_close(ours, whole[:, :, 5:, 5:].mean(2), atol=1e-5, rtol=1e-5)


def test_rotary_attention_with_something_added_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = dinov3.SelfAttention.apply_rope
    monkeypatch.setattr(
        dinov3.SelfAttention,
        "apply_rope",
        lambda s, q, k, rope: (original(s, q, k, rope)[0] * 1.1, original(s, q, k, rope)[1]),
    )
    with refuses(UnsupportedModelError, "SelfAttention", "no way to rotate", "register_family"):
        vitreg.attach(dinov3.DinoVisionTransformer())
    vitreg.attach(dinov3.DinoVisionTransformer(), target="msa_output").remove()
