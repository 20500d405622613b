"""DINO's and iBOT's `VisionTransformer`, and DINO's multi-crop wrapper around it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Attention(nn.Module):
    """Returns its attention beside its output."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        attn = self.attn_drop(((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1))
        return self.proj_drop(self.proj((attn @ v).transpose(1, 2).reshape(b, n, c))), attn


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, init_values: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim, num_heads)
        self.drop_path = nn.Identity()
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, 4 * dim)
        self.gamma_1 = nn.Parameter(init_values * torch.ones(dim)) if init_values else None
        self.gamma_2 = nn.Parameter(init_values * torch.ones(dim)) if init_values else None

    def forward(self, x: Tensor, return_attention: bool = False) -> Tensor:
        y, attn = self.attn(self.norm1(x))
        if return_attention:
            return attn
        x = x + self.drop_path(y if self.gamma_1 is None else self.gamma_1 * y)
        y = self.mlp(self.norm2(x))
        return x + self.drop_path(y if self.gamma_2 is None else self.gamma_2 * y)


class PatchEmbed(nn.Module):
    def __init__(self, img_size: int, patch_size: int, dim: int, flatten: bool) -> None:
        super().__init__()
        self.img_size, self.patch_size, self.flatten = img_size, patch_size, flatten
        self.num_patches = (img_size // patch_size) ** 2
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        return x.flatten(2).transpose(1, 2) if self.flatten else x


class VisionTransformer(nn.Module):
    """Its `head` is for others to use: the forward pass returns the class token without it.

    With `ibot` as iBOT has it: patches stay a map until they are masked, and the mean of the patches can take
    the class token's place, written there in place.
    """

    def __init__(self, ibot: bool = False, use_mean_pooling: bool = False, init_values: float = 0.0) -> None:
        super().__init__()
        dim = self.num_features = self.embed_dim = 32
        self.ibot = ibot
        self.patch_embed = PatchEmbed(64, 16, dim, flatten=not ibot)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches + 1, dim))
        self.pos_drop = nn.Dropout(0.0)
        self.blocks = nn.ModuleList(Block(dim, 2, init_values) for _ in range(2))
        self.norm = nn.Identity() if use_mean_pooling else nn.LayerNorm(dim, eps=1e-6)
        self.fc_norm = nn.LayerNorm(dim, eps=1e-6) if use_mean_pooling else None
        self.head = nn.Identity()

    def interpolate_pos_encoding(self, x: Tensor, w: int, h: int) -> Tensor:
        num_patches, known = x.shape[1] - 1, self.pos_embed.shape[1] - 1
        if num_patches == known and w == h:
            return self.pos_embed
        side, dim = math.isqrt(known), x.shape[-1]
        patches = self.pos_embed[:, 1:].reshape(1, side, side, dim).permute(0, 3, 1, 2)
        size = (w // self.patch_embed.patch_size, h // self.patch_embed.patch_size)
        patches = nn.functional.interpolate(patches, size=size, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], patches.permute(0, 2, 3, 1).view(1, -1, dim)], dim=1)

    def prepare_tokens(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, _, w, h = x.shape
        x = self.patch_embed(x)
        if mask is not None:
            x.permute(0, 2, 3, 1)[mask] = 0.0
        if self.ibot:
            x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(b, -1, -1), x], dim=1)
        return self.pos_drop(x + self.interpolate_pos_encoding(x, w, h))

    def forward(self, x: Tensor, return_all_tokens: bool | None = None, mask: Tensor | None = None) -> Tensor:
        x = self.prepare_tokens(x, mask)
        for blk in self.blocks:
            x = blk(x)
        x = self.norm(x)
        if self.fc_norm is not None:
            x[:, 0] = self.fc_norm(x[:, 1:, :].mean(1))
        return x if return_all_tokens else x[:, 0]


MODELS = {
    "DINO VisionTransformer": VisionTransformer,
    "iBOT VisionTransformer": lambda: VisionTransformer(ibot=True, init_values=0.1),
    "iBOT VisionTransformer, mean pooling": lambda: VisionTransformer(ibot=True, use_mean_pooling=True),
}
