"""Models with LoRA, and a training step with one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

import vitreg
from small_models import make_vit


def with_lora(model: nn.Module, targets: list[str], **options: object) -> nn.Module:
    """Return `model` with adapters that change something: peft's own start as zero."""
    config = LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False, **options)
    return get_peft_model(model, config).train()


def make_pair(*, dropout: float = 0.2, **options: object) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    source = make_vit(proj_drop_rate=dropout)
    head = {"modules_to_save": ["head"], "lora_dropout": dropout}
    return with_lora(copy.deepcopy(source), ["qkv"], **head, **options), source


def step(model: nn.Module, call: Callable[[Tensor], Tensor], reg: vitreg.Attachment) -> dict[str, Tensor]:
    """Return the gradients of one training step, always on the same images with the same dropout."""
    model.zero_grad()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    (call(images).square().mean() + reg.penalty()).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
