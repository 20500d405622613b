"""timm's windowed, pooled and convolutional transformers, in which no attention is over the whole picture."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from vitreg.errors import UnsupportedModelError
from vitreg.families.registries import BlockParts, TowerParts, register_tower
from vitreg.types import Probe, Tap

_WINDOWS = "attention within windows"
_MERGED = "attention to merged keys"
_STAGE = "attention within one stage of a pyramid"
_CHANNELS = "attention between channels"
_LINEAR = "linear attention"


@dataclass(frozen=True)
class _Blocks:
    """One class of transformer block; classes are named as in the model's file.

    Attributes:
        block: its class.
        attention: the classes of its attention; a block without one is convolutional and left out.
        kind: what its attention is instead of one attention over the whole picture.
        ffn: the place of its feed-forward network, "" where it has none of its own, or several.
        windows: whether its attention returns windows, [b * windows, ..., d].
        channels: the dimension of d in these.
        around: the class of the module around it that has the images first, where it runs on windows itself.
        returns: where it returns a tuple, which element is its output; one for each attention.
    """

    block: str
    attention: tuple[str, ...]
    kind: str
    ffn: str = "mlp"
    windows: bool = False
    channels: int = -1
    around: str = ""
    returns: tuple[int, ...] = ()


_MODELS: dict[str, tuple[_Blocks, ...]] = {
    "byobnet.ByobNet": (
        _Blocks("SelfAttnBlock", ("BottleneckAttn",), _STAGE, ""),
        _Blocks("SelfAttnBlock", ("HaloAttn",), _WINDOWS, ""),
        _Blocks("SelfAttnBlock", ("LambdaLayer",), _LINEAR, ""),
        _Blocks("Block", ("Attention",), _WINDOWS, windows=True, around="MobileVitBlock"),
        _Blocks("LinearTransformerBlock", ("LinearSelfAttention",), _LINEAR),
    ),
    "coat.CoaT": (
        _Blocks("SerialBlock", ("FactorAttnConvRelPosEnc",), _LINEAR),
        _Blocks("ParallelBlock", ("FactorAttnConvRelPosEnc",), _LINEAR, "mlp2", returns=(1, 2, 3)),
    ),
    "cpubone.CPUBone": (_Blocks("CPUBoneBlock", ("ConvAttention",), _MERGED, "total.0.1.main"),),
    "csatv2.CSATv2": (_Blocks("TransformerBlock", ("Attention",), _STAGE),),
    "davit.DaVit": (
        _Blocks("SpatialBlock", ("WindowAttention",), _WINDOWS, windows=True),
        _Blocks("ChannelBlock", ("ChannelAttention", "ChannelAttentionV2"), _CHANNELS),
    ),
    "edgenext.EdgeNeXt": (_Blocks("SplitTransposeBlock", ("CrossCovarianceAttn",), _CHANNELS),),
    "efficientformer.EfficientFormer": (_Blocks("MetaBlock1d", ("Attention",), _STAGE),),
    "efficientformer_v2.EfficientFormerV2": (
        _Blocks("EfficientFormerV2Block", ("Attention2d",), _STAGE),
        _Blocks("Downsample", ("Attention2dDownsample",), _STAGE, ""),
    ),
    "efficientvit_mit.EfficientVit": (
        _Blocks("EfficientVitBlock", ("LiteMLA",), _LINEAR, "local_module.main"),
    ),
    "efficientvit_mit.EfficientVitLarge": (
        _Blocks("EfficientVitBlock", ("LiteMLA",), _LINEAR, "local_module.main"),
    ),
    "efficientvit_msra.EfficientVitMsra": (
        _Blocks("EfficientVitBlock", ("LocalWindowAttention",), _WINDOWS, ""),
    ),
    "fastvit.FastVit": (_Blocks("AttentionBlock", ("Attention",), _STAGE),),
    "gcvit.GlobalContextVit": (
        _Blocks("GlobalContextVitBlock", ("WindowAttentionGlobal",), _WINDOWS, windows=True),
    ),
    "hiera.Hiera": (_Blocks("HieraBlock", ("MaskUnitAttention",), _WINDOWS),),
    "hieradet_sam2.HieraDet": (_Blocks("MultiScaleBlock", ("MultiScaleAttention",), _WINDOWS, windows=True),),
    "iformer.IFormer": (_Blocks("SHMABlock", ("SHMA",), _STAGE, ""),),
    "levit.Levit": (
        _Blocks("LevitBlock", ("Attention",), _STAGE),
        _Blocks("LevitDownsample", ("AttentionDownsample",), _STAGE),
    ),
    "lowformer.LowFormer": (_Blocks("LowFormerBlock", ("ConvAttention",), _MERGED, "mlp.main"),),
    "maxxvit.MaxxVit": (
        _Blocks("TransformerBlock2d", ("Attention2d",), _STAGE),
        _Blocks("PartitionAttentionCl", ("AttentionCl",), _WINDOWS, windows=True),
        _Blocks("ParallelPartitionAttention", ("AttentionCl",), _WINDOWS, windows=True),
        _Blocks("PartitionAttention2d", ("Attention2d",), _WINDOWS, windows=True, channels=1),
    ),
    "metaformer.MetaFormer": (_Blocks("MetaFormerBlock", ("Attention",), _STAGE),),
    "mobilenetv3.MobileNetV3": (
        _Blocks("MobileAttention", ("MultiQueryAttention2d", "Attention2d"), _MERGED, ""),
    ),
    "mobilenetv5.MobileNetV5": (
        _Blocks("MobileAttention", ("MultiQueryAttention2d", "Attention2d"), _MERGED, ""),
    ),
    "mobilenetv5.MobileNetV5Encoder": (
        _Blocks("MobileAttention", ("MultiQueryAttention2d", "Attention2d"), _MERGED, ""),
    ),
    "mvitv2.MultiScaleVit": (
        _Blocks(
            "MultiScaleBlock", ("MultiScaleAttention", "MultiScaleAttentionPoolFirst"), _MERGED, returns=(0,)
        ),
    ),
    "nest.Nest": (_Blocks("TransformerLayer", ("Attention",), _WINDOWS),),
    "nextvit.NextViT": (_Blocks("NextTransformerBlock", ("EfficientAttention",), _MERGED),),
    "pvt_v2.PyramidVisionTransformerV2": (_Blocks("Block", ("Attention",), _MERGED),),
    "shvit.SHViT": (_Blocks("BasicBlock", ("SHSA",), _STAGE, "ffn.m"),),
    "swiftformer.SwiftFormer": (_Blocks("Block", ("EfficientAdditiveAttention",), _LINEAR, "linear"),),
    "swin_transformer.SwinTransformer": (
        _Blocks("SwinTransformerBlock", ("WindowAttention",), _WINDOWS, windows=True),
    ),
    "swin_transformer_v2.SwinTransformerV2": (
        _Blocks("SwinTransformerV2Block", ("WindowAttention",), _WINDOWS, windows=True),
    ),
    "swin_transformer_v2_cr.SwinTransformerV2Cr": (
        _Blocks("SwinTransformerV2CrBlock", ("WindowMultiHeadAttention",), _WINDOWS, windows=True),
    ),
    "tiny_vit.TinyVit": (_Blocks("TinyVitBlock", ("Attention",), _WINDOWS, windows=True),),
    "twins.Twins": (
        _Blocks("Block", ("LocallyGroupedAttn",), _WINDOWS),
        _Blocks("Block", ("GlobalSubSampleAttn",), _MERGED),
        _Blocks("Block", ("Attention",), _STAGE),
    ),
    "visformer.Visformer": (_Blocks("Block", ("Attention",), _STAGE),),
    "vision_transformer_sam.VisionTransformerSAM": (
        _Blocks("Block", ("Attention",), _WINDOWS, windows=True),
    ),
}
"""For each model class of timm, with its file, its classes of transformer block."""


def _tower(model: nn.Module, rows: tuple[_Blocks, ...]) -> TowerParts:
    """Say where a hierarchical transformer keeps its parts."""
    m: Any = model
    blocks = list(_blocks(model, rows))
    if not blocks:
        raise UnsupportedModelError(
            f"Expected transformer blocks, found none in this {type(model).__name__}: there is no attention "
            "between its stem and its head. Use a model of this class with attention in its blocks."
        )
    first = next(model.children())
    if isinstance(getattr(m, "head", None), nn.Identity):  # num_classes=0: some get_classifier fail then
        classifier = m.head
    else:
        classifier = m.get_classifier() if hasattr(m, "get_classifier") else ()
    classifiers = classifier if isinstance(classifier, tuple) else (classifier,)
    heads = [getattr(head, "fc", head) for head in classifiers]  # SAM's classifier has a pooling before it
    own = [name for name, _ in model.named_parameters(recurse=False)]
    has_class_token = any(name.startswith("cls_token") for name in own)
    return TowerParts(
        stem=first[0] if isinstance(first, nn.ModuleList) else first,
        blocks=blocks,
        heads=tuple(name for name, module in model.named_modules() if any(module is head for head in heads)),
        num_prefix_tokens=int(has_class_token),
        has_class_token=has_class_token,
        grid=None,
        width=m.num_features,
        position_embeddings=tuple(
            name for name, _ in model.named_parameters() if name.rpartition(".")[2].startswith("pos_embed")
        ),
    )


def _blocks(model: nn.Module, rows: tuple[_Blocks, ...]) -> Iterator[BlockParts]:
    """Yield the transformer blocks as they run; a block with several attentions comes once for each."""
    around: dict[str, nn.Module] = {}
    for module in model.modules():
        for row in rows:
            if _is(module, (row.around,)):
                around[row.around] = module
            if _is(module, (row.block,)):
                attentions = [inner for inner in module.modules() if _is(inner, row.attention)]
                for index, attention in enumerate(attentions):
                    yield _parts(module, attention, row, index, around.get(row.around, module))


def _is(module: nn.Module, names: tuple[str, ...]) -> bool:
    """Return whether `module` is of one of timm's classes of these names; FSDP2's subclasses are, too."""
    return any(cls.__name__ in names and cls.__module__.startswith("timm.") for cls in type(module).__mro__)


def _parts(block: nn.Module, attention: nn.Module, row: _Blocks, index: int, around: nn.Module) -> BlockParts:
    def windows(seen: Mapping[str, Any]) -> Tensor:
        """Return [b * windows, ..., d] as [b, n, d], window after window."""
        num_images = seen["images"][0][0].shape[0]
        tokens: Tensor = seen["output"].movedim(row.channels, -1)
        return tokens.reshape(num_images, -1, tokens.shape[-1])

    def element(seen: Mapping[str, Any]) -> Tensor:
        tokens: Tensor = seen["output"][row.returns[index]]
        return tokens

    output = whole = None
    if row.windows:
        output = Probe({"images": Tap(around, "input"), "output": Tap(attention)}, windows)
    if row.around:
        whole = Probe({"images": Tap(around, "input"), "output": Tap(block)}, windows)
    elif row.returns:
        whole = Probe({"output": Tap(block)}, element)
    obstacle = (
        f"Expected one attention over the whole picture, found {row.kind} ({type(attention).__name__}). "
        "Read msa_output or block_output."
    )
    ffn = dict(block.named_modules()).get(row.ffn) if row.ffn else None
    return BlockParts(block, attention, ffn, output, obstacle=obstacle, whole=whole)


for _place, _rows in _MODELS.items():
    _file, _, _class = _place.partition(".")
    _library = sys.modules.get(f"timm.models.{_file}")
    if _library is not None:  # timm imports all of its files; some came with later versions
        register_tower(getattr(_library, _class))(partial(_tower, rows=_rows))
