"""Hugging Face's Vision Transformers by class: which file's functions know them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import __version__

from vitreg.errors import UnsupportedModelError
from vitreg.families.registries import TowerParts, composites, families, towers
from vitreg.families.transformers_attention import (
    attention,
    attention_pooling,
    biased_attention,
    data2vec_attention,
    fused_attention,
    normed_attention,
    rotary_attention,
    token_pooling,
)
from vitreg.families.transformers_towers import (
    aimv2,
    beit,
    blip,
    clip,
    data2vec,
    dinov2,
    dinov3,
    ijepa,
    internvl,
    mae,
    siglip2,
    vit,
)
from vitreg.types import AttentionReading

_OLDEST = (5, 18)
"""The first version whose models are written the way that is read here."""


def too_old(m: Any) -> TowerParts:
    """Refuse a model of a version that is written differently."""
    expected = f"transformers {_OLDEST[0]}.{_OLDEST[1]} or newer"
    raise UnsupportedModelError(f"{type(m).__name__} is read in {expected}, found {__version__}. Upgrade it.")


@dataclass(frozen=True)
class _File:
    """What one of the library's files holds: class names."""

    attention: Mapping[str, Callable[[Any], AttentionReading]]
    tower: Callable[[Any], TowerParts]
    towers: tuple[str, ...]
    composites: tuple[str, ...] = ()
    name: str = ""  # where the file is not called like its folder


_FILES = {
    "vit": _File({"ViTAttention": attention}, vit, ("ViTModel",)),
    "deit": _File({"DeiTAttention": attention}, vit, ("DeiTModel",)),
    "vit_msn": _File({"ViTMSNAttention": attention}, vit, ("ViTMSNModel",)),
    "dinov2": _File({"Dinov2Attention": attention}, dinov2, ("Dinov2Model", "Dinov2Backbone")),
    "dinov2_with_registers": _File(
        {"Dinov2WithRegistersAttention": attention},
        dinov2,
        ("Dinov2WithRegistersModel", "Dinov2WithRegistersBackbone"),
    ),
    "dinov3_vit": _File(
        {"DINOv3ViTAttention": rotary_attention}, dinov3, ("DINOv3ViTModel", "DINOv3ViTBackbone")
    ),
    "clip": _File(
        {"CLIPAttention": attention},
        clip,
        ("CLIPVisionModel",),
        ("CLIPModel", "CLIPVisionModelWithProjection"),
    ),
    "siglip": _File(
        {"SiglipAttention": attention, "SiglipMultiheadAttentionPoolingHead": attention_pooling},
        clip,
        ("SiglipVisionModel",),
        ("SiglipModel",),
    ),
    "beit": _File({"BeitAttention": biased_attention}, beit, ("BeitModel",)),
    "vit_mae": _File({"ViTMAEAttention": attention}, mae, ("ViTMAEModel",), ("ViTMAEForPreTraining",)),
    "ijepa": _File({"IJepaAttention": attention}, ijepa, ("IJepaModel",)),
    "blip": _File(
        {"BlipAttention": fused_attention},
        blip,
        ("BlipVisionModel",),
        (
            "BlipModel",
            "BlipForConditionalGeneration",
            "BlipForQuestionAnswering",
            "BlipForImageTextRetrieval",
        ),
    ),
    "altclip": _File({"AltCLIPAttention": attention}, clip, ("AltCLIPVisionModel",), ("AltCLIPModel",)),
    "chinese_clip": _File(
        {"ChineseCLIPVisionAttention": attention}, clip, ("ChineseCLIPVisionModel",), ("ChineseCLIPModel",)
    ),
    "metaclip_2": _File(
        {"MetaClip2Attention": attention},
        clip,
        ("MetaClip2VisionModel",),
        ("MetaClip2Model", "MetaClip2VisionModelWithProjection"),
    ),
    "aimv2": _File(
        {"Aimv2Attention": attention, "Aimv2AttentionPoolingHead": token_pooling},
        aimv2,
        ("Aimv2VisionModel",),
        ("Aimv2Model",),
    ),
    "owlvit": _File(
        {"OwlViTAttention": attention},
        blip,
        ("OwlViTVisionTransformer",),
        ("OwlViTModel", "OwlViTForObjectDetection"),
    ),
    "owlv2": _File(
        {"Owlv2Attention": attention},
        blip,
        ("Owlv2VisionTransformer",),
        ("Owlv2Model", "Owlv2ForObjectDetection"),
    ),
    "data2vec": _File(
        {"Data2VecVisionAttention": data2vec_attention},
        data2vec,
        ("Data2VecVisionModel",),
        name="data2vec_vision",
    ),
    "siglip2": _File({}, siglip2, ("Siglip2VisionModel",), ("Siglip2Model",)),
    "internvl": _File(
        {"InternVLVisionAttention": normed_attention},
        internvl,
        ("InternVLVisionModel",),
        ("InternVLModel", "InternVLForConditionalGeneration"),
    ),
}
"""The library's files by their folder's name; it imports one when a model of it is asked for."""

_registered: set[str] = set()


def refresh() -> None:
    """Register the classes of the files that the library has imported since the last call."""
    current = tuple(int(part) for part in __version__.split(".")[:2]) >= _OLDEST
    for name, file in _FILES.items():
        module = sys.modules.get(f"transformers.models.{name}.modeling_{file.name or name}")
        if module is None or name in _registered:
            continue
        _registered.add(name)
        known = vars(module)  # another version may have fewer classes
        for cls in file.attention.keys() & known:
            families.register(known[cls])(file.attention[cls])
        for cls in known.keys() & file.towers:
            towers.register(known[cls])(file.tower if current else too_old)
        composites.update(known[cls] for cls in known.keys() & file.composites)
