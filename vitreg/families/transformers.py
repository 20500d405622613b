"""Hugging Face's Vision Transformers: ViT, DeiT, MSN, DINOv2, DINOv3, CLIP, SigLIP, BEiT."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import __version__

from vitreg.errors import UnsupportedModelError
from vitreg.families.registries import BlockParts, TowerParts, composites, families, towers
from vitreg.families.transformers_attention import (
    attention,
    attention_pooling,
    biased_attention,
    rotary_attention,
)
from vitreg.types import AttentionReading, Probe, Tap

_OLDEST = (5, 18)
"""The first version whose models are written the way that is read here."""
_POSITIONS = ("embeddings.position_embeddings",)


def vit(m: Any) -> TowerParts:
    """Say where ViT, DeiT and MSN keep their parts."""
    return _parts(m, m.layers, 2 if hasattr(m.embeddings, "distillation_token") else 1)


def beit(m: Any) -> TowerParts:
    """Say where BEiT keeps its parts."""
    positions = () if m.embeddings.position_embeddings is None else _POSITIONS
    return _parts(m, m.layers, 1, positions=positions, any_size=True)


def dinov2(m: Any) -> TowerParts:
    """Say where DINOv2 keeps its parts, with registers (behind the class token) or without."""
    return _parts(m, m.encoder.layer, 1 + getattr(m.config, "num_register_tokens", 0), any_size=True)


def dinov3(m: Any) -> TowerParts:
    """Say where DINOv3 keeps its parts; its registers are behind the class token."""
    return _parts(m, m.model.layer, 1 + m.config.num_register_tokens, positions=(), any_size=True)


def clip(m: Any) -> TowerParts:
    """Say where CLIP's and SigLIP's vision towers keep their parts; SigLIP's has no class token."""
    pool = BlockParts(m.head, m.head, m.head.mlp) if getattr(m, "use_head", False) else None
    num_prefix = 1 if hasattr(m.embeddings, "class_embedding") else 0
    positions = ("embeddings.position_embedding.weight",)
    return _parts(m, m.encoder.layers, num_prefix, positions=positions, attention="self_attn", pool=pool)


def too_old(m: Any) -> TowerParts:
    """Refuse a model of a version that is written differently."""
    expected = f"transformers {_OLDEST[0]}.{_OLDEST[1]} or newer"
    raise UnsupportedModelError(f"{type(m).__name__} is read in {expected}, found {__version__}. Upgrade it.")


def _parts(
    m: Any,
    blocks: Iterable[Any],
    num_prefix_tokens: int,
    *,
    positions: tuple[str, ...] = _POSITIONS,
    any_size: bool = False,
    attention: str = "attention",
    pool: BlockParts | None = None,
) -> TowerParts:
    """Return a tower's parts; of `any_size`, its patch grid is known at run time only."""
    patch, image = _pair(m.config.patch_size), _pair(m.config.image_size)
    return TowerParts(
        stem=m.embeddings,
        blocks=[BlockParts(block, getattr(block, attention), block.mlp) for block in blocks],
        heads=(),  # a classifier is a module around the tower
        num_prefix_tokens=num_prefix_tokens,
        has_class_token=num_prefix_tokens > 0,
        grid=None if any_size else (image[0] // patch[0], image[1] // patch[1]),
        width=m.config.hidden_size,
        patch_size=patch,
        position_embeddings=positions,
        pool=pool,
        features=_features(m, num_prefix_tokens > 0),
    )


def _features(m: Any, has_class_token: bool) -> Probe | str:
    """Read what pools the tokens or, without it, the last norm's class token, or mean."""
    if type(m).__name__.endswith("Backbone"):
        return "a backbone returns maps of several stages. Use the model of the same family, or block_output."
    names = ("pooler", "head", "post_layernorm", "layernorm", "norm")
    last = next(part for name in names if (part := getattr(m, name, None)) is not None)

    def read(seen: Mapping[str, Any]) -> Tensor:
        output: Tensor = seen["output"]
        return output if output.dim() == 2 else output[:, 0] if has_class_token else output.mean(1)

    return Probe({"output": Tap(last)}, read)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


@dataclass(frozen=True)
class _File:
    """What one of the library's files holds: class names."""

    attention: Mapping[str, Callable[[Any], AttentionReading]]
    tower: Callable[[Any], TowerParts]
    towers: tuple[str, ...]
    composites: tuple[str, ...] = ()


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
}
"""The library's files by their folder's name; it imports one when a model of it is asked for."""

_registered: set[str] = set()


def refresh() -> None:
    """Register the classes of the files that the library has imported since the last call."""
    current = tuple(int(part) for part in __version__.split(".")[:2]) >= _OLDEST
    for name, file in _FILES.items():
        module = sys.modules.get(f"transformers.models.{name}.modeling_{name}")
        if module is None or name in _registered:
            continue
        _registered.add(name)
        known = vars(module)  # another version may have fewer classes
        for cls in file.attention.keys() & known:
            families.register(known[cls])(file.attention[cls])
        for cls in known.keys() & file.towers:
            towers.register(known[cls])(file.tower if current else too_old)
        composites.update(known[cls] for cls in known.keys() & file.composites)
