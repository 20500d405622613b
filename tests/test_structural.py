"""An attention that nobody registered is read only if what is read enters its softmax."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitreg
from laws import refuses, unchanged
from softmax_recorder import SoftmaxRecorder
from vitreg import UnsupportedModelError


class Fused(nn.Module):
    """One projection for q, k and v side by side; the arrangement is the subclass's."""

    def __init__(self, dim: int, num_heads: int, **_: object) -> None:
        super().__init__()
        self.heads = num_heads
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, d = x.shape
        return self.to_qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def forward(self, x: Tensor, **_: object) -> Tensor:
        return self.out(self.attend(*self.split(x)).transpose(1, 2).flatten(2))


class HeadsFirst(Fused):
    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, d = x.shape
        return self.to_qkv(x).view(b, n, self.heads, 3, d // self.heads).permute(3, 0, 2, 1, 4).unbind(0)


class Literal(Fused):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-1, -2)).mul(self.scale).softmax(-1) @ v

    scale = 0.3


class Separate(Fused):
    def __init__(self, dim: int, num_heads: int, **_: object) -> None:
        super().__init__(dim, num_heads)
        del self.to_qkv
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, dim) for _ in range(3))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )


class KeyAndValue(Separate):
    def __init__(self, dim: int, num_heads: int, **_: object) -> None:
        super().__init__(dim, num_heads)
        del self.q_proj, self.k_proj, self.v_proj
        self.to_q, self.to_kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = (self.to_q(x), *self.to_kv(x).chunk(2, -1))
        return tuple(p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)


class Normed(Fused):
    """Norms see [b, n, h, d]."""

    def __init__(self, dim: int, num_heads: int, **_: object) -> None:
        super().__init__(dim, num_heads)
        self.norm_q, self.norm_k = nn.LayerNorm(dim // num_heads), nn.LayerNorm(dim // num_heads)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (t.transpose(1, 2) for t in super().split(x))
        return self.norm_q(q).transpose(1, 2), self.norm_k(k).transpose(1, 2), v.transpose(1, 2)


class WithBias(Fused):
    """Adds something that no submodule shows; it is zero until it is trained."""

    def __init__(self, dim: int, num_heads: int, **_: object) -> None:
        super().__init__(dim, num_heads)
        self.bias = nn.Parameter(torch.zeros(17, 17))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)


class Twice(Fused):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().attend(q, k, v) - super().attend(k, q, v)


class Breaks(Fused):
    def forward(self, x: Tensor, **_: object) -> Tensor:
        raise ValueError("only in my own training loop")


READ = [Fused, HeadsFirst, Literal, Separate, KeyAndValue, Normed]


@pytest.mark.parametrize("attention", READ)
@pytest.mark.parametrize("query", ["cls", "mean"])
def test_what_is_read_enters_its_softmax(attention: type[nn.Module], query: str, vit: object) -> None:
    model = vit(attn_layer=attention)
    images = torch.randn(2, 3, 32, 32)
    with unchanged(model):
        found = vitreg.describe(model).extractors
        assert [name for name, why in found.items() if why] == ["values"], "whose place nobody checked"
        with SoftmaxRecorder() as recorder, vitreg.trace(model, "attn_logits", query=query) as trace:
            model(images)
    for ours, whole in zip(trace["attn_logits"], recorder.logits, strict=True):
        row = whole[:, :, 0] if query == "cls" else whole[:, :, 1:].mean(2)
        torch.testing.assert_close(ours, row[..., 1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("attention", "why"),
    [
        (WithBias, "differs from what enters its softmax"),
        (Twice, "2 softmaxes"),
        (Breaks, "ValueError: only in"),
    ],
)
def test_what_does_not_check_is_refused_with_a_family_to_write(
    attention: type[nn.Module], why: str, vit: object
) -> None:
    model = vit(attn_layer=attention)
    with (
        unchanged(model),
        refuses(
            UnsupportedModelError,
            "'blocks.0'",
            attention.__name__,
            why,
            "register_family",
            "AttentionReading",
        ),
    ):
        vitreg.attach(model)


def test_the_remedy_has_five_lines(vit: object) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        vitreg.attach(vit(attn_layer=Twice))
    assert len(str(caught.value).splitlines()) == 6


def test_further_arguments_are_refused_when_they_come(vit: object) -> None:
    model = vit(attn_layer=Fused)
    with vitreg.trace(model, "attn_logits"):
        model(torch.randn(1, 3, 32, 32))
        with pytest.raises(UnsupportedModelError, match="further arguments"):
            model.blocks[0].attn(torch.randn(1, 17, 16), attn_mask=torch.zeros(17, 17))


def test_arguments_that_say_what_is_returned_are_none_that_matter() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
    model = transformers.PixioBackbone(transformers.PixioConfig(**sizes, patch_size=8)).train()
    with vitreg.attach(model) as reg:
        model(torch.randn(2, 3, 32, 32))  # asks its blocks, and their attention, for all hidden states
        assert reg.penalty().item() == 0


def test_trying_leaves_no_trace(vit: object) -> None:
    model = vit(attn_layer=Fused)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    vitreg.describe(model)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


def test_a_model_on_the_meta_device_cannot_be_tried(vit: object) -> None:
    with torch.device("meta"):
        model = vit(attn_layer=Fused)
    assert "meta device" in vitreg.describe(model).extractors["attn_logits"]


def test_each_module_is_tried_once(vit: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitreg.families.structure import attention as structural

    tried: list[nn.Module] = []
    original = structural._try
    monkeypatch.setattr(
        structural, "_try", lambda module, tower: tried.append(module) or original(module, tower)
    )
    model = vit(attn_layer=Fused)
    vitreg.describe(model)
    vitreg.describe(model)
    assert tried == [block.attn for block in model.blocks]
