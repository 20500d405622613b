"""DeiT's `DistilledVisionTransformer`, made of timm's, and the `vit_models` of DeiT III, which is its own."""

from __future__ import annotations

import timm.models.vision_transformer
import torch
from timm.models.vision_transformer import Mlp, PatchEmbed
from torch import Tensor, nn

from authors_code.dinov2 import Attention


class DistilledVisionTransformer(timm.models.vision_transformer.VisionTransformer):
    """timm's with a second token and a second head; it knows of one prefix token only."""

    def __init__(self) -> None:
        super().__init__(img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=2, num_classes=5)
        self.dist_token = nn.Parameter(torch.zeros(1, 1, 32))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches + 2, 32))
        self.head_dist = nn.Linear(32, 5)

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patch_embed(x)
        tokens = (self.cls_token.expand(len(x), -1, -1), self.dist_token.expand(len(x), -1, -1))
        x = self.pos_drop(torch.cat((*tokens, x), dim=1) + self.pos_embed)
        for blk in self.blocks:
            x = blk(x)
        x = self.norm(x)
        return x[:, 0], x[:, 1]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        one, two = self.forward_features(x)
        one, two = self.head(one), self.head_dist(two)
        return (one, two) if self.training else (one + two) / 2


class Layer_scale_init_Block(nn.Module):  # noqa: N801
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim, num_heads)
        self.drop_path = nn.Identity()
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, 4 * dim)
        self.gamma_1, self.gamma_2 = (nn.Parameter(0.1 * torch.ones(dim)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.gamma_1 * self.attn(self.norm1(x)))
        return x + self.drop_path(self.gamma_2 * self.mlp(self.norm2(x)))


class Block_paralx2(nn.Module):  # noqa: N801
    """Two attentions side by side."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm11, self.norm2, self.norm21 = (nn.LayerNorm(dim) for _ in range(4))
        self.attn, self.attn1 = Attention(dim, num_heads), Attention(dim, num_heads)
        self.mlp, self.mlp1 = Mlp(dim, 4 * dim), Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x)) + self.attn1(self.norm11(x))
        return x + self.mlp(self.norm2(x)) + self.mlp1(self.norm21(x))


class vit_models(nn.Module):  # noqa: N801
    """Positions are the patches' only: the class token has none."""

    def __init__(self, block_layers: type[nn.Module] = Layer_scale_init_Block) -> None:
        super().__init__()
        self.num_features = self.embed_dim = 32
        self.patch_embed = PatchEmbed(64, 16, 3, 32)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 32))
        self.pos_embed = nn.Parameter(torch.zeros(1, 16, 32))
        self.blocks = nn.ModuleList(block_layers(32, 2) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x) + self.pos_embed
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        for blk in self.blocks:
            x = blk(x)
        return self.norm(x)[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))


MODELS = {
    "DeiT DistilledVisionTransformer": DistilledVisionTransformer,
    "DeiT III vit_models": vit_models,
    "DeiT III vit_models, parallel": lambda: vit_models(Block_paralx2),
}
