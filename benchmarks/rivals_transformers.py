"""The attention guide on a Vision Transformer of transformers, as its users write it and with vitreg."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import vitreg
from rivals import guide, plain_timm
from training import NUM_CLASSES, NotApplicable, Setting, Variant


class WithAttentions(nn.Module):
    """A transformers model that hands over the attention of every block after the softmax, [b, h, n, n]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        output = self.model(images, output_attentions=True)
        return output.logits, output.attentions


class OnlyLogits(nn.Module):
    """A transformers model that returns its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images).logits
        return logits


def make_model(setting: Setting, attention: str) -> nn.Module:
    """Return a ViT in the size of the setting's timm model, in training mode, always with the same weights.

    Args:
        setting: whose source and images give the size.
        attention: "sdpa", or "eager" for attention that can be returned.

    Raises:
        NotApplicable: transformers is not installed, or the setting's model is no plain ViT of timm.
    """
    try:
        from transformers import ViTConfig, ViTForImageClassification
    except ImportError as error:
        raise NotApplicable("transformers is not installed") from error
    model = plain_timm(setting.source)
    sizes: dict[str, Any] = {
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": model.blocks[0].attn.num_heads,
        "intermediate_size": model.blocks[0].mlp.fc1.out_features,
        "image_size": setting.images.shape[-1],
        "patch_size": model.patch_embed.patch_size[0],
        "num_labels": NUM_CLASSES,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: Any = ViTForImageClassification._from_config(ViTConfig(**sizes), attn_implementation=attention)
    module: nn.Module = made.to(setting.images.device).train()
    return module


def plain(setting: Setting) -> Variant:
    """Train without a penalty."""
    return Variant(OnlyLogits(make_model(setting, "sdpa")))


def with_vitreg(setting: Setting) -> Variant:
    """Guide the [CLS] attention with vitreg."""
    model = make_model(setting, "sdpa")
    attachment = vitreg.attach(model, target="attn_probs")
    return Variant(OnlyLogits(model), lambda kept, images: attachment.penalty())


def output_attentions(setting: Setting) -> Variant:
    """Guide the [CLS] row of the attention that `output_attentions=True` returns."""
    source = setting.ready(WithAttentions(make_model(setting, "eager").eval().requires_grad_(False)))
    penalty = guide(source, lambda attention: attention[:, :, 0, 1:])
    return Variant(WithAttentions(make_model(setting, "eager")), penalty)
