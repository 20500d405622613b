"""DINOv3's `DinoVisionTransformer`: rotary positions in every block, storage tokens, no bias of keys."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from authors_code.dino import Mlp
from authors_code.dinov2 import LayerScale

Rope = tuple[Tensor, Tensor]


def rope_rotate_half(x: Tensor) -> Tensor:
    one, two = x.chunk(2, dim=-1)
    return torch.cat([-two, one], dim=-1)


class LinearKMaskedBias(nn.Linear):
    def __init__(self, dim: int) -> None:
        super().__init__(dim, 3 * dim)
        mask = torch.ones(3 * dim)
        mask[dim : 2 * dim] = 0
        self.register_buffer("bias_mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias * self.bias_mask)


class SelfAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv, self.proj = LinearKMaskedBias(dim), nn.Linear(dim, dim)
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Dropout(0.0)

    def apply_rope(self, q: Tensor, k: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """Rotate the patches, in the type of the tables, to which the other tokens are rounded too."""
        sin, cos = rope
        types = q.dtype, k.dtype
        q, k = q.to(sin.dtype), k.to(sin.dtype)
        prefix = q.shape[-2] - sin.shape[-2]
        q, k = (
            torch.cat(
                [x[:, :, :prefix], x[:, :, prefix:] * cos + rope_rotate_half(x[:, :, prefix:]) * sin], dim=-2
            )
            for x in (q, k)
        )
        return q.to(types[0]), k.to(types[1])

    def compute_attention(self, qkv: Tensor, rope: Rope | None) -> Tensor:
        b, n, _ = qkv.shape
        c = self.qkv.in_features
        q, k, v = qkv.reshape(b, n, 3, self.num_heads, c // self.num_heads).unbind(2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        if rope is not None:
            q, k = self.apply_rope(q, k, rope)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)

    def forward(self, x: Tensor, attn_bias: None = None, rope: Rope | None = None) -> Tensor:
        return self.proj_drop(self.proj(self.compute_attention(self.qkv(x), rope)))


class SelfAttentionBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(dim), SelfAttention(dim, num_heads), LayerScale(dim)
        self.norm2, self.mlp, self.ls2 = nn.LayerNorm(dim), Mlp(dim, 2 * dim), LayerScale(dim)

    def forward(
        self, x_or_x_list: Tensor | list[Tensor], rope_or_rope_list: Rope | list[Rope] | None = None
    ) -> Tensor | list[Tensor]:
        is_list = isinstance(x_or_x_list, list)
        xs = x_or_x_list if is_list else [x_or_x_list]
        ropes = rope_or_rope_list if is_list else [rope_or_rope_list]
        outputs = []
        for x, rope in zip(xs, ropes, strict=True):
            x = x + self.ls1(self.attn(self.norm1(x), rope=rope))
            outputs.append(x + self.ls2(self.mlp(self.norm2(x))))
        return outputs if is_list else outputs[0]


class RopePositionEmbedding(nn.Module):
    def __init__(self, head_dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer(
            "periods", 100.0 ** (2 * torch.arange(head_dim // 4).to(dtype) / (head_dim // 2))
        )

    def forward(self, *, H: int, W: int) -> Rope:  # noqa: N803
        places = [torch.arange(0.5, n).to(self.periods) / n * 2 - 1 for n in (H, W)]
        coordinates = torch.stack(torch.meshgrid(*places, indexing="ij"), dim=-1).flatten(0, 1)
        angles = (2 * math.pi * coordinates[:, :, None] / self.periods).flatten(1, 2).tile(2)
        return angles.sin(), angles.cos()


class PatchEmbed(nn.Module):
    """Returns patches as a map, [b, h, w, d]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.img_size, self.patch_size = (64, 64), (16, 16)
        self.proj, self.norm = nn.Conv2d(3, dim, kernel_size=16, stride=16), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class DinoVisionTransformer(nn.Module):
    def __init__(self, n_storage_tokens: int = 4, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        dim = self.num_features = self.embed_dim = 32
        self.num_heads, self.patch_size, self.n_storage_tokens = 2, 16, n_storage_tokens
        self.patch_embed = PatchEmbed(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.storage_tokens = nn.Parameter(torch.zeros(1, n_storage_tokens, dim))
        self.rope_embed = RopePositionEmbedding(dim // 2, dtype)
        self.blocks = nn.ModuleList(SelfAttentionBlock(dim, 2) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(dim), nn.Identity()
        self.mask_token = nn.Parameter(torch.zeros(1, dim))

    def prepare_tokens_with_masks(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.patch_embed(x)
        b, h, w, _ = x.shape
        cls_token = self.cls_token + 0 * self.mask_token
        prefix = [cls_token.expand(b, -1, -1), self.storage_tokens.expand(b, -1, -1)]
        return torch.cat([*prefix, x.flatten(1, 2)], dim=1), (h, w)

    def forward_features_list(self, x_list: list[Tensor]) -> list[dict[str, Tensor]]:
        prepared = [self.prepare_tokens_with_masks(x) for x in x_list]
        x, sizes = [t for t, _ in prepared], [size for _, size in prepared]
        for blk in self.blocks:
            x = blk(x, [self.rope_embed(H=h, W=w) for h, w in sizes])
        return [{"x_norm_clstoken": self.norm(one)[:, 0], "x_prenorm": one} for one in x]

    def forward(self, x: Tensor, is_training: bool = False) -> Tensor | dict[str, Tensor]:
        ret = self.forward_features_list([x])[0]
        return ret if is_training else self.head(ret["x_norm_clstoken"])


MODELS = {
    "DINOv3 DinoVisionTransformer": DinoVisionTransformer,
    "DINOv3 DinoVisionTransformer, tables in bfloat16": lambda: DinoVisionTransformer(dtype=torch.bfloat16),
}
