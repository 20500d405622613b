"""Small models of every library, made of its own classes and without downloads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.transformer import VisionTransformer as OpenClipVisionTransformer
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionVisionTransformer

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 5}
"""timm's names for a model of 3 blocks, 2 heads, width 16 and 4×4 patches."""

Factory = Callable[..., nn.Module]


def make_vit(**options: object) -> VisionTransformer:
    return VisionTransformer(**{**SMALL, **options})


def make_clip(**vision: object) -> CLIP:
    tower = {"layers": 3, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 32, **vision}
    text = CLIPTextCfg(context_length=8, vocab_size=50, width=16, heads=2, layers=1)
    return CLIP(8, CLIPVisionCfg(**tower), text)


def shake(model: nn.Module) -> nn.Module:
    """Make every parameter matter: zero biases and tables would hide a bias that is left out."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


TOWERS: dict[str, Factory] = {
    "timm_attention": make_vit,
    "timm_registers": lambda: make_vit(reg_tokens=4, init_values=0.1, qk_norm=True),
    "timm_attention_rope": lambda: Eva(
        **SMALL, attn_type="rope", use_rot_pos_emb=True, use_abs_pos_emb=False, global_pool="token"
    ),
    "timm_eva": lambda: Eva(**SMALL, use_rot_pos_emb=True, swiglu_mlp=True, global_pool="token"),
    "timm_beit": lambda: Beit(**SMALL, use_rel_pos_bias=True, use_abs_pos_emb=False, init_values=0.1),
    "torchvision": lambda: TorchvisionVisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
    ),
    "open_clip": lambda: OpenClipVisionTransformer(
        image_size=32, patch_size=8, width=16, layers=3, heads=2, mlp_ratio=2.0, output_dim=8
    ),
}
