"""Every supported model by name: without weights, cut to few blocks and small pictures where it can be."""

from __future__ import annotations

import copy
import re
from functools import partial
from typing import Any
from unittest import mock

import open_clip
import timm
import torch
import torchvision
import transformers
import vit_pytorch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from torch import Tensor, nn

from authors_code import MODELS
from small_init import shake

CUTS: dict[str, dict[str, Any]] = {
    "cait": {"depth": 2, "depth_token_only": 2},
    "xcit": {"depth": 2, "cls_attn_layers": 2},
    "volo": {},
    "deepseek": {"depth": 2, "img_size": 56},
    "gemma4": {"depth": 2, "img_size": 96},
    "crossvit": {"depth": ((1, 1, 0), (1, 1, 0)), "img_size": None},
    "convit": {"depth": 3, "local_up_to_layer": 1},
    "pit": {"depth": (1, 1, 1)},
    "sapiens2": {"depth": 2, "num_kv_heads": (None, 4)},
}
"""How models of timm are made small, by a part of their names; the others have `depth`."""


def build(library: str, name: str) -> nn.Module:
    """Return a model with shaken parameters."""
    return shake(_BUILDERS[library](name))


def picture_of(model: nn.Module) -> Tensor:
    """Return two pictures of the size that the model was built for."""
    return torch.randn(2, 3, *model.support_size, device=next(model.parameters()).device)


def _timm(name: str) -> nn.Module:
    words = name.split("_")
    cut = next((cut for word, cut in CUTS.items() if word in words), {"depth": 2})
    patch = re.search(r"patch(\d+)", name)
    side = 4 * (int(patch[1]) if patch else 16)
    whole = [{}] if any(word in words for word in CUTS) else []
    for options in ({"img_size": side, **cut}, cut, *whole):
        try:
            model = timm.create_model(name, **options)  # which drops what is None
        except TypeError:
            continue
        model.support_size = (options.get("img_size"),) * 2
        if options.get("img_size") is None:
            model.support_size = model.pretrained_cfg["input_size"][1:]
        return model
    with torch.device("meta"):  # a hierarchy of stages: whole, without values, asked what it delivers
        model = timm.create_model(name)
    model.support_size = model.pretrained_cfg["input_size"][1:]
    return model


def _open_clip(name: str) -> nn.Module:
    config = copy.deepcopy(open_clip.get_model_config(name))
    vision = config["vision_cfg"]
    if "timm_model_name" not in vision:
        return _open_clip_tower(config, layers=2)
    vision["timm_model_pretrained"] = False
    plain = timm.create_model
    try:
        with mock.patch("open_clip.timm_model.timm.create_model", partial(plain, depth=2)):
            return _open_clip_tower(config)
    except TypeError:  # no plain stack of blocks
        with torch.device("meta"):
            return _open_clip_tower(config)


def whole_open_clip(name: str) -> nn.Module:
    """Return the whole image tower, without values; its text tower may need the network."""
    config = copy.deepcopy(open_clip.get_model_config(name))
    config["vision_cfg"]["timm_model_pretrained"] = False
    with torch.device("meta"):
        return _open_clip_tower(config)


def _open_clip_tower(config: dict[str, Any], **vision: int) -> nn.Module:
    tower = CLIPVisionCfg(**{**config["vision_cfg"], **vision})
    model = _build_vision_tower(config["embed_dim"], tower, quick_gelu=config.get("quick_gelu", False))
    size = model.image_size
    model.support_size = size if isinstance(size, tuple) else (size, size)
    return model


def _torchvision(name: str) -> nn.Module:
    model = torchvision.models.get_model(name, image_size=64 if name != "vit_h_14" else 56)
    model.encoder.layers = model.encoder.layers[:2]
    model.support_size = (model.image_size, model.image_size)
    return model


TRANSFORMERS = (
    "ViTModel",
    "ViTForImageClassification",
    "ViTForMaskedImageModeling",
    "ViTMAEModel",
    "ViTMSNModel",
    "ViTMSNForImageClassification",
    "DeiTModel",
    "DeiTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "DeiTForMaskedImageModeling",
    "Dinov2Model",
    "Dinov2ForImageClassification",
    "Dinov2Backbone",
    "Dinov2WithRegistersModel",
    "Dinov2WithRegistersForImageClassification",
    "Dinov2WithRegistersBackbone",
    "DINOv3ViTModel",
    "DINOv3ViTBackbone",
    "CLIPVisionModel",
    "CLIPVisionModelWithProjection",
    "CLIPForImageClassification",
    "CLIPModel",
    "CLIPSegModel",
    "AltCLIPModel",
    "AltCLIPVisionModel",
    "ChineseCLIPModel",
    "ChineseCLIPVisionModel",
    "MetaClip2Model",
    "MetaClip2ForImageClassification",
    "MetaClip2VisionModel",
    "MetaClip2VisionModelWithProjection",
    "MLCDVisionModel",
    "SiglipVisionModel",
    "SiglipForImageClassification",
    "SiglipModel",
    "BlipModel",
    "BlipVisionModel",
    "OwlViTVisionModel",
    "Owlv2VisionModel",
    "Aimv2VisionModel",
    "IJepaModel",
    "IJepaForImageClassification",
    "InternVLVisionModel",
    "PixioModel",
    "PixioBackbone",
    "Sapiens2Backbone",
    "Tipsv2VisionModel",
    "Tipsv2VisionBackbone",
    "BeitModel",
    "BeitForImageClassification",
    "BeitBackbone",
    "Data2VecVisionModel",
    "Data2VecVisionForImageClassification",
    "DPTModel",
    "Siglip2VisionModel",
    "Siglip2ForImageClassification",
    "Siglip2Model",
)
"""The classes of transformers in which something is read, and SigLIP 2, which says what to take instead."""

_SMALL = {"num_hidden_layers": 2, "image_size": 64, "hidden_size": 64, "num_attention_heads": 4}
_OPTIONS = {
    "Beit": {"use_relative_position_bias": True},
    "Data2Vec": {"use_relative_position_bias": True},
    "ViTMAE": {"mask_ratio": 0.0},
}


def _transformers(name: str) -> nn.Module:
    cls = getattr(transformers, name)
    options = next((more for start, more in _OPTIONS.items() if name.startswith(start)), {})
    sub = getattr(cls.config_class, "sub_configs", {})
    if "vision_config" in sub and "Vision" not in name:
        text = {key: value for key, value in _SMALL.items() if key != "image_size"}
        config = cls.config_class(vision_config=_SMALL, text_config=text)
    else:
        config = cls.config_class(**_SMALL, **options)
    model = cls(config)
    if name == "ViTMAEModel":  # in the picture's order, so that the recorded softmaxes are in order too
        plain = model.embeddings.random_masking
        model.embeddings.random_masking = lambda tokens, _: plain(tokens, torch.arange(16.0).expand(2, -1))
    model.support_size = (64, 64)
    return model


def _authors(name: str) -> nn.Module:
    model = AUTHORS[name]()
    model.support_size = (64, 64)
    return model


def _word(name: str) -> str:
    """Return a model's name as one word, such as DINOv2/DinoVisionTransformer/registers."""
    model, _, variant = name.replace("DeiT III", "DeiT-III").partition(", ")
    return "/".join(filter(None, (*model.split(), variant.replace(" ", "-"))))


AUTHORS = {
    _word(name): make for name, make in MODELS.items() if "perceptron" not in name
}  # of three channels
"""Authors' own code, as small models of the same structure that take pictures of three channels."""

VIT_PYTORCH = ("ViT", "SimpleViT")


def _vit_pytorch(name: str) -> nn.Module:
    sizes = {"image_size": 64, "patch_size": 16, "num_classes": 5, "dim": 64, "depth": 2, "heads": 4}
    model = getattr(vit_pytorch, name)(**sizes, mlp_dim=128)
    model.support_size = (64, 64)
    return model


_BUILDERS = {
    "timm": _timm,
    "open_clip": _open_clip,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "vit-pytorch": _vit_pytorch,
    "authors": _authors,
}
