"""A tower that nobody registered is taken for what runs of a copy show it to be, and for nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitreg
from authors_code import dinov3, monai
from laws import refuses, unchanged
from small_models import shake
from softmax_recorder import SoftmaxRecorder
from structural_models import Tokens, Vit, class_token_first
from vitreg import UnsupportedModelError
from vitreg.families import find_tower


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
