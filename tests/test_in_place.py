"""What was read stays what the model computed, whatever it writes to in place afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import make_vit
from vitreg import StateError


def headed(first: nn.Module) -> nn.Module:
    model = make_vit()
    model.head = nn.Sequential(first, nn.Linear(16, 5))
    return model.train()


@pytest.mark.parametrize(
    "first", [nn.Dropout(0.5, inplace=True), nn.ReLU(inplace=True), nn.SELU(inplace=True)]
)
def test_features_before_a_head_that_writes_to_them(first: nn.Module, images: Tensor) -> None:
    model = headed(first)
    entered: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _, args: entered.append(args[0].detach().clone()))
    with vitreg.trace(model, "features") as trace:
        for _ in range(3):
            model(images)
            assert torch.equal(trace["features"][0], entered[-1])
    with vitreg.attach(model, target="features") as reg:
        for _ in range(3):
            (model(images).sum() + reg.penalty()).backward()
            assert reg.terms["features"] == 0


def test_features_of_a_backbone_before_what_follows_it(images: Tensor) -> None:
    backbone = make_vit(num_classes=0)
    model = nn.Sequential(backbone, nn.ReLU(inplace=True), nn.Linear(16, 3)).train()
    with vitreg.attach(model, target="features") as reg:
        model(images)
        assert reg.penalty() == 0


class InPlaceResiduals(nn.Module):
    """A block as `x += attention(x)`; `out` writes the pooled token where it came from."""

    def __init__(self, block: nn.Module, how: str) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "residual":
            x += self.attn(self.norm1(x))
            x += self.mlp(self.norm2(x))
            return x
        x = x + self.attn(self.norm1(x))
        out = x + self.mlp(self.norm2(x))
        if self.how == "pooled":
            x[:, 0] = out.mean(1)
            return x
        return out


def in_place(how: str) -> nn.Module:
    model = make_vit()
    model.blocks = nn.Sequential(*(InPlaceResiduals(block, how) for block in model.blocks))
    return model.train()


def outputs_of(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return each block's output as it was when the block returned."""
    kept: list[Tensor] = []
    hooks = [
        b.register_forward_hook(lambda _m, _a, out: kept.append(out.detach().clone())) for b in model.blocks
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return kept


@pytest.mark.parametrize("how", ["residual", "pooled", "none"])
def test_block_outputs_that_the_next_block_writes_to(how: str, images: Tensor) -> None:
    model = in_place(how)
    expected = outputs_of(model, images)
    with torch.no_grad(), vitreg.trace(model, "block_output") as trace:
        for _ in range(2):
            model(images)
            for ours, theirs in zip(trace["block_output"], expected, strict=True):
                assert torch.equal(ours, theirs)


def test_a_penalty_on_an_early_block_knows_nothing_of_later_ones(images: Tensor) -> None:
    model = in_place("residual")
    with vitreg.attach(model, target="block_output", layers=[0]) as reg:
        with torch.no_grad():
            for parameter in model.blocks[2].parameters():
                parameter.add_(torch.randn_like(parameter))
        for _ in range(2):
            model(images)
            assert reg.penalty() == 0


@pytest.mark.parametrize("inplace", [False, True])
def test_msa_output_is_read_before_layer_scale(inplace: bool, images: Tensor) -> None:
    model = make_vit(init_values=0.1).train()
    for block in model.blocks:
        block.ls1.inplace = inplace
    x = model._pos_embed(model.patch_embed(images))
    expected = model.blocks[0].attn(model.blocks[0].norm1(x))
    with vitreg.trace(model, "msa_output", layers=0) as trace:
        for _ in range(2):
            model(images)
            torch.testing.assert_close(trace["msa_output"][0], expected)


class WritesToData(nn.Module):
    """Writes where torch counts no version."""

    def forward(self, x: Tensor) -> Tensor:
        x.data.mul_(3)
        return x


def test_a_write_that_nobody_counts(images: Tensor) -> None:
    model = headed(WritesToData())
    with vitreg.attach(model, target="features") as reg:
        for _ in range(2):
            model(images)
            assert reg.penalty() == 0


class WritesLater(nn.Module):
    """Begins to write in its third pass."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return x.relu_() if self.passes >= 3 else x


def test_a_model_that_begins_to_write_is_an_error_once(images: Tensor) -> None:
    model = headed(WritesLater())
    with vitreg.attach(model, target="features") as reg:
        for _ in range(2):
            model(images)
            assert reg.penalty() == 0
        model(images)
        with refuses(StateError, "to stay what it was", "in place", "Run the model again"):
            reg.penalty()
        model(images)
        assert reg.penalty() == 0


def test_dropout_that_writes_in_training_alone(images: Tensor) -> None:
    model = headed(nn.Dropout(0.5, inplace=True)).eval()
    with vitreg.trace(model, "features") as trace:
        model(images)
        expected = trace["features"][0].clone()
        model.train()(images)
        torch.testing.assert_close(trace["features"][0], expected)


def test_without_writing_nothing_is_copied(images: Tensor) -> None:
    model = make_vit().train()
    returned: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _a, out: returned.append(out))
    with vitreg.trace(model, "block_output") as trace:
        for _ in range(2):
            returned.clear()
            model(images)
            assert all(a is b for a, b in zip(trace["block_output"], returned, strict=True))


def test_in_inference_mode(images: Tensor) -> None:
    model = headed(nn.ReLU(inplace=True)).eval()
    entered: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _, args: entered.append(args[0].clone()))
    with torch.inference_mode(), vitreg.trace(model, "features") as trace:
        for _ in range(2):
            model(images)
            assert torch.equal(trace["features"][0], entered[-1])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled(backend: str, images: Tensor) -> None:
    model = headed(nn.Dropout(0.5, inplace=True))
    with vitreg.attach(model, target="features") as reg:
        torch.compiler.reset()
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        for _ in range(2):
            compiled(images)
            assert reg.penalty().item() == pytest.approx(0, abs=1e-10)


# The class token's logits


class Separate(nn.Module):
    """An attention that nobody registered; `change` is what it does to q and k in place."""

    def __init__(self, dim: int, num_heads: int, **_: object) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, dim) for _ in range(3))

    def scaled(self, q: Tensor, k: Tensor) -> Tensor:
        q *= self.scale
        return q @ k.transpose(-1, -2)

    def forward(self, x: Tensor, **_: object) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        self.entered = self.scaled(q, k)
        return (self.entered.softmax(-1) @ v).transpose(1, 2).flatten(2)


class KeyScaled(Separate):
    def scaled(self, q: Tensor, k: Tensor) -> Tensor:
        k.mul_(self.scale)
        return q @ k.transpose(-1, -2)


class QueryBeforeKey(Separate):
    """Writes to q before k is there."""

    def forward(self, x: Tensor, **_: object) -> Tensor:
        q = self.q_proj(x)
        q *= self.scale
        q, k, v = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projected in (q, self.k_proj(x), self.v_proj(x))
        )
        self.entered = q @ k.transpose(-1, -2)
        return (self.entered.softmax(-1) @ v).transpose(1, 2).flatten(2)


class LogitsInPlace(Separate):
    def scaled(self, q: Tensor, k: Tensor) -> Tensor:
        logits = q @ k.transpose(-1, -2)
        logits *= self.scale
        return logits


class Fused(Separate):
    def __init__(self, dim: int, num_heads: int, **_: object) -> None:
        super().__init__(dim, num_heads)
        del self.q_proj, self.k_proj, self.v_proj
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x: Tensor, **_: object) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        self.entered = self.scaled(q, k)
        return (self.entered.softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("attention", [Separate, KeyScaled, QueryBeforeKey, LogitsInPlace, Fused])
def test_logits_of_an_attention_that_writes_to_q_or_k(
    attention: type[nn.Module], images: Tensor, perturb: Callable[[nn.Module], None]
) -> None:
    model = make_vit(attn_layer=attention).train()
    source = copy.deepcopy(model).eval()
    with vitreg.attach(model, source) as reg:
        perturb(model)
        for _ in range(2):
            logits = model(images)
            ours = [block.attn.entered[:, :, 0, 1:].double() for block in model.blocks]
            source(images)
            theirs = [block.attn.entered[:, :, 0, 1:].double() for block in source.blocks]
            expected = sum(F.mse_loss(a, b) for a, b in zip(ours, theirs, strict=True)) / 3
            value = reg.penalty()
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-8)
            found = torch.autograd.grad(
                value, list(model.blocks.parameters()), retain_graph=True, allow_unused=True
            )
            literal = torch.autograd.grad(
                expected, list(model.blocks.parameters()), retain_graph=True, allow_unused=True
            )
            for one, other in zip(found, literal, strict=True):
                if one is not None or other is not None:
                    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
            logits.sum().backward()
