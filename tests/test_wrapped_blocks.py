"""Blocks that are wrapped after attaching, and passes between a checkpointed one and its backward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

import vitreg
from laws import refuses
from small_models import TOWERS, make_vit
from two_processes import in_two_processes
from vitreg import StateError, UnsupportedModelError
from vitreg.names import plain_name

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo
TARGETS = ["attn_logits", "msa_output", "block_output", "features"]


def gradients(model: nn.Module) -> list[Tensor | None]:
    found = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


def compile_blocks(model: nn.Module) -> None:
    for index in range(len(model.blocks)):
        model.blocks[index] = torch.compile(model.blocks[index], backend="eager")


def compile_blocks_in_place(model: nn.Module) -> None:
    for block in model.blocks:
        block.compile(backend="eager")


WRAP: dict[str, Callable[[nn.Module], None]] = {
    "CheckpointWrapper": lambda m: apply_activation_checkpointing(
        m, check_fn=lambda part: isinstance(part, Block)
    ),
    "set_grad_checkpointing": lambda m: m.set_grad_checkpointing(),
    "torch.compile": compile_blocks,
    "compile()": compile_blocks_in_place,
}


@pytest.mark.parametrize("wrap", WRAP.values(), ids=WRAP)
@pytest.mark.parametrize("target", ["attn_logits", "block_output"])
def test_attach_then_wrap(
    target: str, wrap: Callable[[nn.Module], None], images: Tensor, perturb: Callable[[nn.Module], None]
) -> None:
    torch._dynamo.reset()
    model = make_vit().train()
    with vitreg.attach(model, target=target) as attachment:
        perturb(model)
        model(images)
        expected = attachment.penalty()
        expected.backward()
        plain = gradients(model)
        wrap(model)
        model(images)
        value = attachment.penalty()
        value.backward()
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradients(model), plain)


def test_a_replaced_part_is_still_noticed(images: Tensor) -> None:
    model = make_vit().train()
    with vitreg.attach(model) as attachment:
        model.blocks[1] = torch.compile(make_vit().blocks[1], backend="eager")
        model(images)
        with refuses(StateError, "did not deliver attn_logits of block 1"):
            attachment.penalty()


def test_plain_names() -> None:
    assert plain_name("blocks.0._checkpoint_wrapped_module._orig_mod.attn.qkv") == "blocks.0.attn.qkv"
    assert plain_name("_fsdp_wrapped_module.head") == "head"
    assert plain_name("") == ""


def eval_pass(model: nn.Module, images: Tensor) -> None:
    model.eval()
    model(images).sum()
    model.train()


BETWEEN: dict[str, Callable[[nn.Module, Tensor, vitreg.Attachment], object]] = {
    "evaluation with gradients": lambda m, x, a: eval_pass(m, 2 * x),
    "evaluation without": lambda m, x, a: torch.no_grad()(m)(2 * x),
    "a pass that every=2 skips": lambda m, x, a: m(2 * x),
    "a pass and its penalty": lambda m, x, a: (a.penalty(), m(2 * x), a.penalty()),
    "removal": lambda m, x, a: a.remove(),
}


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
@pytest.mark.parametrize("tower", ["timm_attention", "timm_eva"])
@pytest.mark.parametrize("target", TARGETS)
def test_between_a_checkpointed_pass_and_its_backward(
    target: str,
    tower: str,
    between: Callable[[nn.Module, Tensor, vitreg.Attachment], object],
    images: Tensor,
    perturb: Callable[[nn.Module], None],
) -> None:
    model = TOWERS[tower]().train()
    found = []
    source = vitreg.FrozenSource(model)
    perturb(model)
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        with vitreg.attach(model, source, target=target, every=2) as attachment:
            loss = model(images).square().mean() + attachment.penalty()
            between(model, images, attachment)
            loss.backward()
        found.append((loss.detach(), gradients(model)))
    torch.testing.assert_close(found[1], found[0])


def fsdp1(rank: int) -> list[tuple[float, float]]:
    found = []
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(rank))
    for original in (False, True):
        torch.manual_seed(0)
        model, source = make_vit().train(), make_vit()

        def wrap(module: nn.Module, original: bool = original) -> nn.Module:
            policy = ModuleWrapPolicy({Block})
            cpu = torch.device("cpu")
            return FullyShardedDataParallel(
                module, auto_wrap_policy=policy, use_orig_params=original, device_id=cpu
            )

        with vitreg.attach(model, source, ["attn_logits", "block_output", "bss"]) as attachment:
            model(images)
            plain = attachment.penalty().item()
            (wrap(model)(images).sum() + attachment.penalty()).backward()
            found.append((plain, sum(attachment.terms[n].item() * w for n, w in WEIGHTS.items())))
        with refuses(UnsupportedModelError, "sharded ones (FSDP1)", "Attach before they are sharded"):
            vitreg.attach(model, target="block_output")
        model = make_vit().train()
        with vitreg.attach(model, target="l2sp") as attachment:
            wrap(model)(images)
            with refuses(UnsupportedModelError, "one by one, found FSDP1", "Use DDP"):
                attachment.penalty()
    return found


WEIGHTS = {"attn_logits": 1.0, "block_output": 1.0, "bss": 1e-3}


@pytest.mark.slow
def test_attach_then_shard_by_fsdp1(tmp_path: Path) -> None:
    for found in in_two_processes(fsdp1, tmp_path):
        for plain, sharded in found:
            assert plain > 0
            assert sharded == pytest.approx(plain, rel=1e-5)
