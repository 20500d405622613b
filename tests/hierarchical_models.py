"""A small model of each hierarchy of attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import timm
import torch
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.models.gcvit import GlobalContextVit
from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitTransformerCfg
from timm.models.metaformer import Attention, LayerNorm2dNoBias, LayerNormNoBias, MetaFormer, SepConv
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from timm.models.nest import Nest
from torch import Tensor, nn

from small_models import shake


class Tiny(NamedTuple):
    """How a tiny model is made, how many attentions of each class it has, its width and a picture's side."""

    make: Callable[[], nn.Module]
    attention: dict[str, int]
    width: int = 32
    size: int = 64


def _timm(name: str, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        if not timm.is_model(name):
            pytest.skip(f"timm {timm.__version__} has no {name}")
        return timm.create_model(name, num_classes=5, **options)

    return make


def _byobnet() -> nn.Module:
    layers = {
        "bottleneck": {"dim_head": 8},
        "halo": {"block_size": 4, "halo_size": 1, "dim_head": 8},
        "lambda": {"dim_head": 8, "r": 3},
    }
    blocks = tuple(
        ByoBlockCfg("self_attn", 1, 32, 1, 0, br=0.5, self_attn_layer=layer, self_attn_kwargs=options)
        for layer, options in layers.items()
    )
    cfg = ByoModelCfg(blocks, stem_chs=8, stem_type="3x3", stem_pool="maxpool")
    return ByobNet(cfg, num_classes=5, img_size=64)


def _maxxvit(kind: str, *, nchw: bool = False) -> Callable[[], nn.Module]:
    cfg = MaxxVitCfg(
        embed_dim=(16, 32),
        depths=(1, 1),
        block_type=("C" if kind == "T" else kind, kind),
        stem_width=8,
        transformer_cfg=MaxxVitTransformerCfg(
            dim_head=8, window_size=(4, 4), use_nchw_attn=nchw, init_values=None
        ),
    )
    return lambda: MaxxVit(cfg, img_size=64, num_classes=5)


def _metaformer() -> nn.Module:
    return MetaFormer(
        num_classes=5,
        depths=(1, 1, 1, 1),
        dims=(8, 8, 32, 32),
        token_mixers=[SepConv, SepConv, Attention, Attention],
        norm_layers=[LayerNorm2dNoBias] * 2 + [LayerNormNoBias] * 2,
    )


def _mvit(*, use_cls_token: bool) -> Callable[[], nn.Module]:
    cfg = MultiScaleVitCfg(depths=(1, 2, 1, 1), embed_dim=8, use_cls_token=use_cls_token)
    return lambda: MultiScaleVit(cfg, img_size=(64, 64), num_classes=5)


_SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 2)}
_PYRAMID = {"depths": (1, 1, 1, 1), "embed_dims": (8, 8, 16, 32)}
_HEADS = {"num_heads": (2, 2, 2, 2)}
_DAVIT = {"depths": (1, 1), "embed_dims": (16, 32), "num_heads": (2, 2), "window_size": 4}
_LEVIT = {"img_size": 64, "embed_dim": (16, 16, 32), "key_dim": 8, "depth": (1, 1, 1), "num_heads": (2, 2, 2)}
_WIDTHS = {"widths": (8, 8, 16, 16, 32), "depths": (1, 1, 1, 1, 1), "head_widths": (16, 16)}
_STAGES = {"depth_list": [0, 1, 1, 1, 1], "head_widths": (16, 16)}
_SAM = {"img_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "window_size": 5}
MODELS = {
    "byobnet": Tiny(_byobnet, {"BottleneckAttn": 1, "HaloAttn": 1, "LambdaLayer": 1}),
    "byobnet_mobilevit": Tiny(_timm("mobilevit_xxs"), {"Attention": 9}, 320),
    "byobnet_mobilevitv2": Tiny(_timm("mobilevitv2_050"), {"LinearSelfAttention": 9}, 256),
    "coat": Tiny(
        _timm("coat_tiny", img_size=64, embed_dims=(16,) * 4, serial_depths=(1,) * 4, parallel_depth=1),
        {"FactorAttnConvRelPosEnc": 7},
        16,
    ),
    "cpubone": Tiny(_timm("cpubone_nano", width_list=[4, 4, 8, 16, 32], **_STAGES), {"ConvAttention": 2}),
    "csatv2": Tiny(
        _timm("csatv2", dims=(8, 8, 16, 32), depths=(1, 1, 2, 2), transformer_depths=(0, 0, 1, 1)),
        {"Attention": 2},
    ),
    "davit": Tiny(_timm("davit_tiny", **_DAVIT), {"WindowAttention": 2, "ChannelAttention": 2}),
    "davit_named": Tiny(_timm("davit_base_fl", **_DAVIT), {"WindowAttention": 2, "ChannelAttentionV2": 2}),
    "edgenext": Tiny(
        _timm("edgenext_xx_small", dims=(8, 16, 16, 32), depths=(1, 1, 1, 2), heads=(2,) * 4),
        {"CrossCovarianceAttn": 3},
    ),
    "efficientformer": Tiny(_timm("efficientformer_l1", **_PYRAMID), {"Attention": 1}, size=224),
    "efficientformerv2": Tiny(
        _timm(
            "efficientformerv2_s0",
            img_size=64,
            depths=(1, 1, 2, 2),
            embed_dims=(8, 8, 16, 32),
            num_vit=1,
            mlp_ratios=4,
        ),
        {"Attention2d": 2, "Attention2dDownsample": 1},
    ),
    "efficientvit_mit": Tiny(_timm("efficientvit_b0", **_WIDTHS), {"LiteMLA": 2}),
    "efficientvit_mit_large": Tiny(_timm("efficientvit_l1", **_WIDTHS), {"LiteMLA": 1}),
    "efficientvit_msra": Tiny(
        _timm("efficientvit_m0", img_size=64, embed_dim=(16, 16, 32), depth=(1, 1, 1), window_size=(3, 3, 3)),
        {"LocalWindowAttention": 3},
    ),
    "fastvit": Tiny(
        _timm("fastvit_sa12", layers=(1,) * 4, embed_dims=(16, 16, 32, 32)), {"Attention": 1}, 64
    ),
    "gcvit": Tiny(
        lambda: GlobalContextVit(img_size=64, embed_dim=8, depths=(1, 1, 2, 1), num_classes=5, **_HEADS),
        {"WindowAttentionGlobal": 5},
        64,
    ),
    "hiera": Tiny(
        _timm("hiera_tiny_224", img_size=64, embed_dim=8, stages=(1, 1, 1, 1)), {"MaskUnitAttention": 4}, 64
    ),
    "hieradet": Tiny(
        _timm(
            "hieradet_small",
            embed_dim=8,
            stages=(1, 2, 1, 1),
            window_spec=(8, 4, 4, 2),
            global_att_blocks=(2,),
        ),
        {"MultiScaleAttention": 5},
        64,
    ),
    "iformer": Tiny(
        _timm("iformer_t", dims=(8, 8, 16, 32), depths=(1, 1, 3, 4), attn_groups=(0, 0, 1, 1)), {"SHMA": 2}
    ),
    "levit": Tiny(_timm("levit_256d", **_LEVIT), {"Attention": 3, "AttentionDownsample": 2}),
    "levit_distilled": Tiny(_timm("levit_conv_128s", **_LEVIT), {"Attention": 3, "AttentionDownsample": 2}),
    "lowformer": Tiny(_timm("lowformer_b0", width_list=[4, 8, 8, 16, 32], **_STAGES), {"ConvAttention": 2}),
    "maxxvit_coatnet": Tiny(_maxxvit("T"), {"Attention2d": 1}),
    "maxxvit_maxvit": Tiny(_maxxvit("M"), {"AttentionCl": 4}),
    "maxxvit_nchw": Tiny(_maxxvit("M", nchw=True), {"Attention2d": 4}),
    "maxxvit_parallel": Tiny(_maxxvit("PM"), {"AttentionCl": 4}),
    "metaformer": Tiny(_metaformer, {"Attention": 2}),
    "mobilenetv3": Tiny(_timm("mobilenetv4_hybrid_medium"), {"MultiQueryAttention2d": 8}, 960),
    "mobilenetv5": Tiny(
        _timm("mobilenetv5_base", channel_multiplier=0.1), {"MultiQueryAttention2d": 13}, 2048, 128
    ),
    "mobilenetv5_encoder": Tiny(
        lambda: timm.create_model("mobilenetv5_300m_enc", channel_multiplier=0.1),
        {"MultiQueryAttention2d": 33},
        2048,
    ),
    "mvit": Tiny(_mvit(use_cls_token=False), {"MultiScaleAttention": 5}, 64),
    "mvit_class_token": Tiny(_mvit(use_cls_token=True), {"MultiScaleAttention": 5}, 64),
    "nest": Tiny(
        lambda: Nest(64, embed_dims=(8, 16, 32), num_heads=(2, 2, 2), depths=(1, 1, 1), num_classes=5),
        {"Attention": 3},
    ),
    "nextvit": Tiny(
        _timm("nextvit_small", stem_chs=(8, 8, 8), depths=(1, 2, 5, 2)), {"EfficientAttention": 3}, 1024
    ),
    "pvt_v2": Tiny(_timm("pvt_v2_b0", **_PYRAMID, **_HEADS), {"Attention": 4}),
    "pvt_v2_linear": Tiny(_timm("pvt_v2_b2_li", **_PYRAMID, **_HEADS), {"Attention": 4}),
    "shvit": Tiny(
        _timm("shvit_s1", embed_dim=(16, 16, 32), partial_dim=(8, 8, 8), depth=(1, 1, 1)), {"SHSA": 2}
    ),
    "swiftformer": Tiny(
        _timm("swiftformer_xs", layers=[1, 1, 1, 1], embed_dims=[8, 8, 16, 32]),
        {"EfficientAdditiveAttention": 4},
    ),
    "swin": Tiny(_timm("swin_tiny_patch4_window7_224", **_SWIN), {"WindowAttention": 3}),
    "swinv2": Tiny(_timm("swinv2_tiny_window8_256", **_SWIN), {"WindowAttention": 3}),
    "swinv2_cr": Tiny(_timm("swinv2_cr_tiny_224", **_SWIN), {"WindowMultiHeadAttention": 3}),
    "tiny_vit": Tiny(
        _timm("tiny_vit_5m_224", **_PYRAMID, **_HEADS, window_sizes=(3, 3, 3, 2)), {"Attention": 3}
    ),
    "twins_pcpvt": Tiny(
        _timm("twins_pcpvt_small", img_size=64, **_PYRAMID, **_HEADS), {"GlobalSubSampleAttn": 4}
    ),
    "twins_svt": Tiny(
        _timm(
            "twins_svt_small", img_size=64, embed_dims=(8, 8, 16, 32), depths=(2, 1, 1, 2), wss=(4, 4, 4, 2)
        ),
        {"LocallyGroupedAttn": 4, "GlobalSubSampleAttn": 2},
    ),
    "visformer": Tiny(
        _timm("visformer_tiny", img_size=64, embed_dim=32, depth=(1, 1, 1), num_heads=2), {"Attention": 2}, 64
    ),
    "vit_sam": Tiny(
        _timm("samvit_base_patch16", global_attn_indexes=(1,), neck_chans=32, **_SAM), {"Attention": 2}
    ),
}
SLOW = ("mobilenetv3", "mobilenetv5_encoder", "nextvit")
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODELS]
BOTH = ("msa_output", "block_output")


def shaken(name: str) -> nn.Module:
    """Make a tiny model with noise on its parameters: layers that start at zero would hide everything."""
    return shake(MODELS[name].make()).eval()


def images_of(name: str, batch: int = 2) -> Tensor:
    side = MODELS[name].size
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
