"""A small model of each of timm's families, and what its softmax computes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from timm.models.cait import Cait
from timm.models.convit import ConVit
from timm.models.crossvit import CrossVit
from timm.models.eva import Eva
from timm.models.naflexvit import NaFlexVit
from timm.models.pit import PoolingVisionTransformer
from timm.models.tnt import TNT
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock
from timm.models.vision_transformer_relpos import ResPostRelPosBlock, VisionTransformerRelPos
from timm.models.volo import VOLO
from timm.models.xcit import Xcit
from torch import Tensor, nn

from small_models import SMALL, make_vit
from softmax_recorder import SoftmaxRecorder
from vitreg.types import Query

RELPOS = {**SMALL, "init_values": 0.1}
WITH_CLASS = {"class_token": True, "global_pool": "token"}
NAFLEX = {
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "pos_embed_grid_size": (4, 4),
    "reg_tokens": 2,
}
LANGUAGE = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
GEMMA = {
    **LANGUAGE,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "position_embedding_size": 64,
}
TNT_SMALL = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 2,
    "inner_dim": 8,
    "num_heads_inner": 2,
    "num_heads_outer": 4,
    "num_classes": 3,
}
PIT = {"img_size": 64, "base_dims": (8, 8, 8), "depth": (1, 1, 1), "heads": (2, 2, 4), "num_classes": 3}
CROSSVIT = {
    "img_size": 48,
    "img_scale": (1.0, 32 / 48),
    "patch_size": (12, 16),
    "embed_dim": (16, 24),
    "depth": ((1, 2, 1), (1, 1, 1)),
    "num_heads": (2, 2),
    "num_classes": 3,
}
VOLO_SMALL = {
    "layers": [1, 1, 2],
    "img_size": 64,
    "stem_hidden_dim": 8,
    "embed_dims": [16, 32, 32],
    "num_heads": [2, 4, 4],
    "outlook_attention": (True, False, False),
    "downsamples": (True, False, False),
    "mlp_ratio": 2.0,
    "post_layers": ("ca", "ca"),
    "num_classes": 3,
}


def _relpos(**options: object) -> nn.Module:
    return VisionTransformerRelPos(**{**RELPOS, **options})


def _vit(block: Any, **options: object) -> nn.Module:
    return make_vit(block_fn=block, reg_tokens=1, qk_norm=True, **options)


def _recent(module: str) -> Any:
    """Return a module of timm that has classes which its oldest supported version does not have."""
    return importlib.import_module(f"timm.models.{module}")


RECENT = {
    **dict.fromkeys(("gemma", "gemma_encoder"), "timm.models.gemma4_vit"),
    **dict.fromkeys(("qwen", "qwen_encoder"), "timm.models.qwen3_vit"),
    **dict.fromkeys(("deepseek", "deepseek_encoder"), "timm.models.deepseek_vit"),
    **dict.fromkeys(("diff", "diff_parallel", "diff_things", "parallel_fused"), "timm.layers.diff_attention"),
    **dict.fromkeys(("prr_token", "prr_mean"), "timm.layers.diff_attention"),
}
"""For models that timm's oldest supported version does not have: a module that came with them, or after."""
MODELS: dict[str, Callable[[], nn.Module]] = {
    "relpos_bias": partial(_relpos, rel_pos_type="bias", **WITH_CLASS),
    "relpos_bias_shared": partial(_relpos, rel_pos_type="bias", shared_rel_pos=True, **WITH_CLASS),
    "relpos_mlp": partial(_relpos, rel_pos_type="mlp", qk_norm=True, **WITH_CLASS),
    "relpos_mlp_no_class": partial(_relpos, rel_pos_type="mlp", block_fn=ResPostRelPosBlock),
    "relpos_mlp_swin": partial(_relpos, rel_pos_type="mlp_swin", rel_pos_dim=8, **WITH_CLASS),
    "relpos_mlp_shared": partial(_relpos, rel_pos_type="mlp", shared_rel_pos=True),
    "parallel": partial(_vit, ParallelScalingBlock),
    "parallel_fused": partial(_vit, partial(ParallelScalingBlock, fuse_out_proj=True)),
    "parallel_things": partial(_vit, partial(ParallelThingsBlock, num_parallel=3)),
    "diff": lambda: make_vit(attn_layer="diff", qk_norm=True, reg_tokens=1),
    "diff_parallel": lambda: _vit(_recent("vision_transformer").DiffParallelScalingBlock),
    "diff_things": partial(_vit, ParallelThingsBlock, attn_layer="diff"),
    "map_pool": lambda: make_vit(class_token=False, global_pool="map", reg_tokens=2),
    "map_pool_prefix": lambda: make_vit(global_pool="map", pool_include_prefix=True),
    "prr_token": lambda: make_vit(global_pool="prr"),
    "prr_mean": lambda: make_vit(class_token=False, global_pool="prr"),
    "eva_map_pool": lambda: Eva(
        **{**SMALL, "patch_size": 8},
        use_rot_pos_emb=True,
        attn_type="rope",
        global_pool="map",
        num_reg_tokens=2,
    ),
    "naflex": lambda: NaFlexVit(**NAFLEX, class_token=True, global_pool="token"),
    "naflex_map": lambda: NaFlexVit(**NAFLEX, class_token=False, global_pool="map", rope_type="mixed"),
    "gemma": lambda: _recent("gemma4_vit").Gemma4VitClassifier(**GEMMA),
    "gemma_encoder": lambda: _recent("gemma4_vit").Gemma4VitEncoder(**GEMMA, pooling_kernel_size=2),
    "qwen": lambda: _recent("qwen3_vit").Qwen3VitClassifier(**LANGUAGE, pos_embed_grid_size=3),
    "qwen_encoder": lambda: _recent("qwen3_vit").Qwen3VitEncoder(**LANGUAGE, pos_embed_grid_size=3),
    "deepseek": lambda: _recent("deepseek_vit").DeepseekVitClassifier(**LANGUAGE),
    "deepseek_encoder": lambda: _recent("deepseek_vit").DeepseekVitEncoder(**LANGUAGE, global_pool="avg"),
    "tnt": lambda: TNT(**TNT_SMALL),
    "tnt_legacy": lambda: TNT(**TNT_SMALL, legacy=True),
    "pit": lambda: PoolingVisionTransformer(**PIT),
    "pit_distilled": lambda: PoolingVisionTransformer(**PIT, distilled=True),
    "crossvit": lambda: CrossVit(**CROSSVIT),
    "convit": lambda: ConVit(**SMALL, local_up_to_layer=1),
    "cait": lambda: Cait(**SMALL, init_values=0.1),
    "xcit": lambda: Xcit(**SMALL, cls_attn_layers=2, eta=0.1),
    "xcit_tokens_norm": lambda: Xcit(**SMALL, cls_attn_layers=2, eta=0.1, tokens_norm=True),
    "volo": lambda: VOLO(**VOLO_SMALL),
}


def build(name: str) -> nn.Module:
    """Return the model with weights that all matter: zero biases and tables would hide what is left out."""
    if name in RECENT:
        pytest.importorskip(RECENT[name])
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return model


def images_of(name: str) -> Tensor:
    side = {"crossvit": 48, "volo": 64}.get(name, 64 if name.startswith("pit") else 32)
    return torch.randn(2, 3, side, side)


class Truth:
    """What enters the softmaxes that run inside each of `modules`, in one pass."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.recorder = SoftmaxRecorder()
        self.inside: dict[nn.Module, list[Tensor]] = {}
        self.handles = [m.register_forward_pre_hook(self._enter) for m in modules]
        self.handles += [m.register_forward_hook(self._leave) for m in modules]

    def _enter(self, module: nn.Module, args: object) -> None:
        self.start = len(self.recorder.logits)

    def _leave(self, module: nn.Module, args: object, output: object) -> None:
        self.inside[module] = self.recorder.logits[self.start :]

    def run(self, model: nn.Module, images: Tensor) -> None:
        with self.recorder:
            model(images)
        for handle in self.handles:
            handle.remove()

    def of(self, module: nn.Module) -> Tensor:
        """Return [b, h, n, n]; a differential head's two maps, apart when fused, side by side."""
        found = self.inside[module]
        attentions = [m for m in module.modules() if hasattr(m, "lambda_init")]
        if attentions and getattr(attentions[0], "fused_attn", False):
            found = [torch.stack(found[i : i + 2], 2).flatten(1, 2) for i in range(0, len(found), 2)]
        return torch.cat(found, dim=1)


def expected_logits(whole: Tensor, query: Query, num_prefix: int, pooled: str) -> Tensor:
    if query == "mean":
        row = whole[:, :, num_prefix:].mean(2)
    elif query == "pool" and pooled == "avg":
        row = whole.mean(2)
    else:
        row = whole[:, :, 0]
    return row[..., num_prefix:]
