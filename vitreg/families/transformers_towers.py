"""Where Hugging Face's Vision Transformers keep their parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.errors import UnsupportedModelError
from vitreg.families.registries import BlockParts, TowerParts
from vitreg.families.transformers_attention import attention
from vitreg.types import AttentionReading, Probe, Row, Tap

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


def blip(m: Any) -> TowerParts:
    """Say where BLIP's and OWL-ViT's vision towers keep their parts; their last norm runs twice."""
    positions = tuple(
        f"embeddings.{name}" for name, _ in m.embeddings.named_parameters() if "position" in name
    )
    parts = _parts(m, m.encoder.layers, 1, positions=positions, attention="self_attn")
    return dataclasses.replace(parts, features=Probe({"output": Tap(m)}, _pooler_output))


def ijepa(m: Any) -> TowerParts:
    """Say where I-JEPA keeps its parts; it has no class token."""
    return _parts(m, m.layers, 0)


def aimv2(m: Any) -> TowerParts:
    """Say where AIMv2's vision tower keeps its parts; it has no class token and may have a pooling."""
    pool = BlockParts(m.head, m.head) if m.use_head else None
    native = m.config.is_native  # positions are computed, for pictures of any size
    positions = () if native else ("embeddings.position_embedding.weight",)
    return _parts(m, m.encoder.layers, 0, positions=positions, any_size=native, ffn="ffn", pool=pool)


def data2vec(m: Any) -> TowerParts:
    """Say where data2vec keeps its parts; its blocks return tuples and have their network in two parts."""
    positions = () if m.embeddings.position_embeddings is None else _POSITIONS
    parts = _parts(m, m.encoder.layer, 1, positions=positions, any_size=True, ffn=None)
    whole = [Probe({"output": Tap(block.block)}, lambda seen: seen["output"][0]) for block in parts.blocks]
    blocks = [
        dataclasses.replace(block, whole=probe) for block, probe in zip(parts.blocks, whole, strict=True)
    ]
    return dataclasses.replace(parts, blocks=blocks)


def internvl(m: Any) -> TowerParts:
    """Say where InternVL's vision tower keeps its parts."""
    positions = () if m.embeddings.position_embeddings is None else _POSITIONS
    return _parts(m, m.encoder.layer, 1, positions=positions, any_size=True)


def siglip2(m: Any) -> TowerParts:
    """Refuse SigLIP 2's vision tower of any aspect ratio, which never sees a picture."""
    raise UnsupportedModelError(
        f"Expected a tower that is called with pictures, found {type(m).__name__}, which takes patches that "
        "were cut before, with a mask for padding. Load a checkpoint of fixed size (patch16-224) as "
        "SiglipVisionModel, or one of any size (naflex) with timm (naflexvit_…), whose towers take pictures."
    )


def mae(m: Any) -> TowerParts:
    """Say where MAE's encoder keeps its parts; what is read is brought back from its random order.

    Raises:
        UnsupportedModelError: it drops patches.
    """
    if m.config.mask_ratio != 0:
        raise UnsupportedModelError(
            f"Expected an encoder that sees every patch, found {type(m).__name__} with mask_ratio="
            f"{m.config.mask_ratio}. Set `model.config.mask_ratio = 0`, or load the checkpoint as ViTModel."
        )
    parts = _parts(m, m.layers, 1)
    return dataclasses.replace(parts, blocks=[in_order(block, m.embeddings) for block in parts.blocks])


def in_order(block: BlockParts, embeddings: nn.Module) -> BlockParts:
    """Return a block of MAE whose readings have the patches in the picture's order."""
    module: Any = block.attention
    reading, order = attention(module), Tap(embeddings)

    def check(seen: Mapping[str, Any]) -> Tensor:
        layer: Any = block.block
        if getattr(layer, "gradient_checkpointing", False) and layer.training:
            raise UnsupportedModelError(
                f"{type(layer).__name__} is read without gradient checkpointing, which runs it again without "
                "the order of its patches. Call `model.gradient_checkpointing_disable()`."
            )
        restored: Tensor = seen["order"][2]
        return restored

    def logits(seen: Mapping[str, Any], row: Row) -> Tensor:
        shuffled, restore = reading.logits(seen, row), check(seen)
        patches = shuffled[..., 1:].gather(2, restore[:, None].expand(-1, shuffled.shape[1], -1))
        return torch.cat([shuffled[..., :1], patches], dim=-1)

    def tokens(seen: Mapping[str, Any]) -> Tensor:
        output = seen["output"][0] if isinstance(seen["output"], tuple) else seen["output"]
        restore = check(seen)[..., None].expand(-1, -1, output.shape[-1])
        return torch.cat([output[:, :1], output[:, 1:].gather(1, restore)], dim=1)

    output = Probe({"order": order, "output": Tap(module)}, tokens)
    return dataclasses.replace(
        block,
        reading=AttentionReading(reading.num_heads, {"order": order, **reading.taps}, logits),
        output=output,
        whole=Probe({"order": order, "output": Tap(block.block)}, tokens),
    )


def _pooler_output(seen: Mapping[str, Any]) -> Tensor:
    output = seen["output"]
    pooled: Tensor = output[1] if isinstance(output, tuple) else output.pooler_output
    return pooled


def _parts(
    m: Any,
    blocks: Iterable[Any],
    num_prefix_tokens: int,
    *,
    positions: tuple[str, ...] = _POSITIONS,
    any_size: bool = False,
    attention: str = "attention",
    ffn: str | None = "mlp",
    pool: BlockParts | None = None,
) -> TowerParts:
    """Return a tower's parts; of `any_size`, its patch grid is known at run time only."""
    patch, image = _pair(m.config.patch_size), _pair(m.config.image_size)
    return TowerParts(
        stem=m.embeddings,
        blocks=[
            BlockParts(block, getattr(block, attention), getattr(block, ffn) if ffn else None)
            for block in blocks
        ],
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
    names = ("pooler", "head", "post_layernorm", "layernorm", "norm", "rms_norm")
    last = next(part for name in names if (part := getattr(m, name, None)) is not None)

    def read(seen: Mapping[str, Any]) -> Tensor:
        output: Tensor = seen["output"]
        return output if output.dim() == 2 else output[:, 0] if has_class_token else output.mean(1)

    return Probe({"output": Tap(last)}, read)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
