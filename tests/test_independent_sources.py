"""A source computes with weights of its own, whatever somebody has put on the model's modules."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import vitreg
from laws import refuses
from small_models import make_vit
from vitreg import UnsupportedModelError


def attend(attention: nn.Module, x: Tensor) -> Tensor:
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return attention.proj((((q @ k.mT) * attention.scale).softmax(-1) @ v).transpose(1, 2).flatten(2))


def closure(attention: nn.Module) -> None:
    kept: list[Tensor] = []

    def forward(x: Tensor, **_: object) -> Tensor:
        kept.append(x.detach())
        return attend(attention, x)

    attention.forward = forward


def default(attention: nn.Module) -> None:
    attention.forward = lambda x, a=attention, **_: attend(a, x)


def keyword_default(attention: nn.Module) -> None:
    def forward(x: Tensor, *, own: nn.Module = attention, **_: object) -> Tensor:
        return attend(own, x)

    attention.forward = forward


def partial(attention: nn.Module) -> None:
    attention.forward = functools.partial(lambda a, x, **_: attend(a, x), attention)


def wrapped(attention: nn.Module) -> None:
    original = attention.forward

    @functools.wraps(original)
    def forward(*args: object, **kwargs: object) -> Tensor:
        return original(*args, **kwargs)

    attention.forward = forward


def checkpointed(attention: nn.Module) -> None:
    original = attention.forward
    attention.forward = lambda x, **_: checkpoint(original, x, use_reentrant=False)


def in_a_container(attention: nn.Module) -> None:
    parts = {"attention": [attention]}
    attention.forward = lambda x, **_: attend(parts["attention"][0], x)


def by_a_helper(attention: nn.Module) -> None:
    def helper(x: Tensor) -> Tensor:
        return attend(attention, x)

    attention.forward = lambda x, **_: helper(x)


PATCHES = [closure, default, keyword_default, partial, wrapped, checkpointed, in_a_container, by_a_helper]


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("target", ["msa_output", "block_output", "features"])
def test_a_forward_that_is_a_function(
    patch: Callable[[nn.Module], None], target: str, images: Tensor, perturb: Callable[[nn.Module], None]
) -> None:
    model = make_vit().train()
    twin = copy.deepcopy(model).eval()
    for block in model.blocks:
        patch(block.attn)
    with vitreg.attach(model, target=target) as reg:
        perturb(model)
        with vitreg.trace(model, target) as ours, vitreg.trace(twin, target) as theirs, torch.no_grad():
            model(images)
            twin(images)
        pairs = list(zip(ours[target], theirs[target], strict=True))
        expected = sum(F.mse_loss(a.double(), b.double()) for a, b in pairs) / len(pairs)
        model(images)
        assert reg.penalty().item() == pytest.approx(float(expected), rel=1e-4)
        assert not [p for p in reg.source.tower.module.parameters() if p.requires_grad]


def test_a_block_wrapped_by_a_function(images: Tensor, perturb: Callable[[nn.Module], None]) -> None:
    model = make_vit().train()
    for block in model.blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    with vitreg.attach(model, target="block_output") as reg:
        perturb(model)
        model(images)
        reg.penalty().backward()
        assert reg.terms["block_output"] > 1e-3


def adapters_on(model: nn.Module) -> list[nn.Parameter]:
    """Put a low-rank adapter on each block's qkv, by a hook; return what is trained of it."""
    trained = []
    for block in model.blocks:
        up = nn.Parameter(torch.zeros(48, 16))
        block.attn.qkv.register_forward_hook(lambda _, args, out, up=up: out + args[0] @ up.T)
        trained.append(up)
    return trained


@pytest.mark.parametrize("moved", [None, torch.float64])
def test_adapters_in_hooks(images: Tensor, moved: torch.dtype | None) -> None:
    model = make_vit().train()
    plain = copy.deepcopy(model)
    trained = adapters_on(model)
    with vitreg.attach(model) as own, vitreg.attach(model, plain, {"apart": vitreg.GTA()}) as apart:
        model.to(moved)
        with torch.no_grad():
            for up in trained:
                up.data = up.data.to(moved).normal_()
        model(images.to(moved))
        values = own.penalty(), apart.penalty()
        torch.testing.assert_close(*values)
        assert values[0] > 1
        values[0].backward()
        assert all(up.grad.abs().sum() > 0 for up in trained)


def test_adapters_in_hooks_of_a_frozen_model(images: Tensor) -> None:
    model = make_vit().train().requires_grad_(False)
    model.head.requires_grad_(True)
    source = copy.deepcopy(model)
    trained = adapters_on(model)
    with vitreg.attach(model, source) as reg:
        with torch.no_grad():
            for up in trained:
                up.normal_()
        model(images)
        reg.penalty().backward()
        assert all(up.grad.abs().sum() > 0 for up in trained)
        for up in trained:
            up.requires_grad_(False)
        model(images.clone().requires_grad_())
        frozen = reg.penalty()  # as at any start with a frozen backbone: nothing, until it is trained
        assert frozen.item() == 0
        assert not frozen.requires_grad


the_model: nn.Module


@pytest.fixture
def _global_model() -> Iterator[None]:
    global the_model
    the_model = make_vit().train()
    yield
    del the_model


def forward_by_global_name(x: Tensor, **_: object) -> Tensor:
    return attend(the_model.blocks[1].attn, x)


@pytest.mark.usefixtures("_global_model")
@pytest.mark.parametrize("frozen", [False, True])
def test_a_forward_that_knows_the_model_by_a_global_name(frozen: bool) -> None:
    the_model.blocks[1].attn.forward = forward_by_global_name
    the_model.requires_grad_(not frozen)
    with refuses(UnsupportedModelError, "weights of its own", "'blocks.1.attn.qkv.weight'", "a subclass"):
        vitreg.attach(the_model, target="block_output")


class Shares(nn.Linear):
    def __deepcopy__(self, memo: dict[int, object]) -> Shares:
        return self


def test_a_copy_that_is_none() -> None:
    model = make_vit()
    model.blocks[0].mlp.fc1 = Shares(16, 64)
    with refuses(UnsupportedModelError, "weights of its own", "'blocks.0.mlp.fc1.weight'", "__deepcopy__"):
        vitreg.attach(model)
