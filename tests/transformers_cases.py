"""Small models of the transformers library: each class with its configuration, and what it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from torch import nn

from vitreg.types import Query

hf = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PATCHES = {"image_size": 32, "patch_size": 8}
BOTH: tuple[Query, ...] = ("cls", "mean")


@dataclass(frozen=True)
class Case:
    """A model class, its configuration, and what it is."""

    cls: str
    config: str
    num_prefix: int = 1
    queries: tuple[Query, ...] = BOTH
    options: tuple[tuple[str, Any], ...] = ()
    any_size: bool = False
    tower: str = ""

    def make(self, implementation: str = "sdpa", **options: Any) -> nn.Module:
        config = getattr(hf, self.config)(**{**SIZES, **PATCHES, **dict(self.options), **options})
        implementation = "eager" if "Blip" in self.cls else implementation  # it has no other
        return getattr(hf, self.cls)._from_config(config, attn_implementation=implementation).train()


LABELS = (("num_labels", 5),)
REGISTERS = (("num_register_tokens", 3),)
STAGES = (("out_features", ["stage2"]),)
RELATIVE = (("use_relative_position_bias", True),)
SHARED = (("use_shared_relative_position_bias", True),)
NATIVE = (("is_native", True), ("use_head", False))
NORMS = (("use_qk_norm", True), ("norm_type", "rms_norm"), ("use_mean_pooling", False))
ABSOLUTE = (("use_absolute_position_embeddings", True), ("use_mask_token", True))
CASES = {
    "vit": Case("ViTModel", "ViTConfig"),
    "vit_classifier": Case("ViTForImageClassification", "ViTConfig", options=LABELS, tower="vit"),
    "deit": Case("DeiTModel", "DeiTConfig", 2),
    "deit_classifier": Case("DeiTForImageClassification", "DeiTConfig", 2, options=LABELS, tower="deit"),
    "msn": Case("ViTMSNModel", "ViTMSNConfig"),
    "dinov2": Case("Dinov2Model", "Dinov2Config", any_size=True),
    "dinov2_classifier": Case(
        "Dinov2ForImageClassification", "Dinov2Config", options=LABELS, any_size=True, tower="dinov2"
    ),
    "dinov2_swiglu": Case("Dinov2Model", "Dinov2Config", options=(("use_swiglu_ffn", True),), any_size=True),
    "dinov2_backbone": Case("Dinov2Backbone", "Dinov2Config", options=STAGES, any_size=True),
    "dinov2_registers": Case(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", 4, options=REGISTERS, any_size=True
    ),
    "dinov2_registers_backbone": Case(
        "Dinov2WithRegistersBackbone",
        "Dinov2WithRegistersConfig",
        4,
        options=REGISTERS + STAGES,
        any_size=True,
    ),
    "dinov3": Case("DINOv3ViTModel", "DINOv3ViTConfig", 4, options=REGISTERS, any_size=True),
    "dinov3_backbone": Case(
        "DINOv3ViTBackbone", "DINOv3ViTConfig", 4, options=REGISTERS + STAGES, any_size=True
    ),
    "clip": Case("CLIPVisionModel", "CLIPVisionConfig"),
    "clip_projection": Case("CLIPVisionModelWithProjection", "CLIPVisionConfig", tower="vision_model"),
    "siglip": Case("SiglipVisionModel", "SiglipVisionConfig", 0, ("mean", "pool")),
    "siglip_without_head": Case(
        "SiglipVisionModel", "SiglipVisionConfig", 0, ("mean",), options=(("vision_use_head", False),)
    ),
    "ijepa": Case("IJepaModel", "IJepaConfig", 0, ("mean",)),
    "ijepa_classifier": Case(
        "IJepaForImageClassification", "IJepaConfig", 0, ("mean",), LABELS, tower="ijepa"
    ),
    "blip": Case("BlipVisionModel", "BlipVisionConfig"),
    "altclip": Case("AltCLIPVisionModel", "AltCLIPVisionConfig"),
    "chinese_clip": Case("ChineseCLIPVisionModel", "ChineseCLIPVisionConfig"),
    "metaclip_2": Case("MetaClip2VisionModel", "MetaClip2VisionConfig"),
    "metaclip_2_projection": Case(
        "MetaClip2VisionModelWithProjection", "MetaClip2VisionConfig", tower="vision_model"
    ),
    "aimv2": Case("Aimv2VisionModel", "Aimv2VisionConfig", 0, ("mean", "pool")),
    "aimv2_native": Case("Aimv2VisionModel", "Aimv2VisionConfig", 0, ("mean",), NATIVE, any_size=True),
    "owlvit": Case("OwlViTVisionModel", "OwlViTVisionConfig", tower="vision_model"),
    "owlv2": Case("Owlv2VisionModel", "Owlv2VisionConfig", tower="vision_model"),
    "data2vec": Case("Data2VecVisionModel", "Data2VecVisionConfig", options=ABSOLUTE, any_size=True),
    "data2vec_both": Case(
        "Data2VecVisionModel", "Data2VecVisionConfig", options=RELATIVE + SHARED, any_size=True
    ),
    "data2vec_classifier": Case(
        "Data2VecVisionForImageClassification",
        "Data2VecVisionConfig",
        options=RELATIVE + LABELS,
        any_size=True,
        tower="data2vec_vision",
    ),
    "internvl": Case("InternVLVisionModel", "InternVLVisionConfig", any_size=True),
    "internvl_norms": Case("InternVLVisionModel", "InternVLVisionConfig", options=NORMS, any_size=True),
    "beit_relative": Case("BeitModel", "BeitConfig", options=RELATIVE, any_size=True),
    "beit_shared": Case("BeitModel", "BeitConfig", options=SHARED, any_size=True),
    "beit_both": Case("BeitModel", "BeitConfig", options=RELATIVE + SHARED, any_size=True),
    "beit_absolute": Case("BeitModel", "BeitConfig", options=ABSOLUTE, any_size=True),
    "beit_classifier": Case(
        "BeitForImageClassification", "BeitConfig", options=RELATIVE + LABELS, any_size=True, tower="beit"
    ),
}
WITH_CLASS_TOKEN = [name for name, case in CASES.items() if "cls" in case.queries and "backbone" not in name]
