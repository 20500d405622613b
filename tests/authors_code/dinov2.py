"""DINOv2's `DinoVisionTransformer`: plain, with blocks in chunks as for FSDP, and with registers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Scales the queries before the product."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        attn = self.attn_drop((q @ k.transpose(-2, -1)).softmax(dim=-1))
        return self.proj_drop(self.proj((attn @ v).transpose(1, 2).reshape(b, n, c)))


class MemEffAttention(Attention):
    """Where xFormers is missing, which is everywhere but on some GPUs, its base computes."""

    def forward(self, x: Tensor, attn_bias: Any = None) -> Tensor:
        assert attn_bias is None
        return super().forward(x)


class LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(0.1 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class SwiGLUFFN(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w12, self.w3 = nn.Linear(dim, 4 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.w12(x).chunk(2, dim=-1)
        return self.w3(nn.functional.silu(one) * two)


class NestedTensorBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), MemEffAttention(dim, num_heads)
        self.ls1, self.drop_path1 = LayerScale(dim), nn.Identity()
        self.norm2, self.mlp = nn.LayerNorm(dim), SwiGLUFFN(dim)
        self.ls2, self.drop_path2 = LayerScale(dim), nn.Identity()

    def forward(self, x_or_x_list: Tensor) -> Tensor:
        x = x_or_x_list
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class BlockChunk(nn.ModuleList):
    """Chunks but the first begin with as many `nn.Identity` as there are blocks before them."""

    def forward(self, x: Tensor) -> Tensor:
        for b in self:
            x = b(x)
        return x


class PatchEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.img_size, self.patch_size, self.num_patches = (64, 64), (16, 16), 16
        self.proj = nn.Conv2d(3, dim, kernel_size=16, stride=16)
        self.norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] % 16 == 0
        assert x.shape[3] % 16 == 0
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


class DinoVisionTransformer(nn.Module):
    def __init__(self, block_chunks: int = 0, num_register_tokens: int = 0) -> None:
        super().__init__()
        dim = self.num_features = self.embed_dim = 32
        self.patch_embed = PatchEmbed(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, dim))
        self.num_register_tokens = num_register_tokens
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, num_register_tokens, dim)) if num_register_tokens else None
        )
        blocks = [NestedTensorBlock(dim, 2) for _ in range(2)]
        self.chunked_blocks = block_chunks > 0
        if self.chunked_blocks:
            size = len(blocks) // block_chunks
            chunks = [[nn.Identity()] * i + blocks[i : i + size] for i in range(0, len(blocks), size)]
            self.blocks = nn.ModuleList(BlockChunk(chunk) for chunk in chunks)
        else:
            self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Identity()
        self.mask_token = nn.Parameter(torch.zeros(1, dim))

    def interpolate_pos_encoding(self, x: Tensor, w: int, h: int) -> Tensor:
        known = self.pos_embed.shape[1] - 1
        if x.shape[1] - 1 == known and w == h:
            return self.pos_embed
        side, dim = math.isqrt(known), x.shape[-1]
        patches = self.pos_embed[:, 1:].reshape(1, side, side, dim).permute(0, 3, 1, 2)
        patches = nn.functional.interpolate(patches, size=(w // 16, h // 16), mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], patches.permute(0, 2, 3, 1).view(1, -1, dim)], dim=1)

    def prepare_tokens_with_masks(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        _, _, w, h = x.shape
        x = self.patch_embed(x)
        if masks is not None:
            x = torch.where(masks.unsqueeze(-1), self.mask_token.unsqueeze(0), x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + self.interpolate_pos_encoding(x, w, h)
        if self.register_tokens is not None:
            x = torch.cat([x[:, :1], self.register_tokens.expand(x.shape[0], -1, -1), x[:, 1:]], dim=1)
        return x

    def forward_features(self, x: Tensor, masks: Tensor | None = None) -> dict[str, Any]:
        x = self.prepare_tokens_with_masks(x, masks)
        for blk in self.blocks:
            x = blk(x)
        x_norm = self.norm(x)
        return {
            "x_norm_clstoken": x_norm[:, 0],
            "x_norm_regtokens": x_norm[:, 1 : self.num_register_tokens + 1],
            "x_norm_patchtokens": x_norm[:, self.num_register_tokens + 1 :],
            "x_prenorm": x,
            "masks": masks,
        }

    def forward(self, *args: Any, is_training: bool = False, **kwargs: Any) -> Any:
        ret = self.forward_features(*args, **kwargs)
        return ret if is_training else self.head(ret["x_norm_clstoken"])


MODELS = {
    "DINOv2 DinoVisionTransformer": DinoVisionTransformer,
    "DINOv2 DinoVisionTransformer, chunked blocks": lambda: DinoVisionTransformer(block_chunks=2),
    "DINOv2 DinoVisionTransformer, one chunk": lambda: DinoVisionTransformer(block_chunks=1),
    "DINOv2 DinoVisionTransformer, registers": lambda: DinoVisionTransformer(num_register_tokens=4),
}
