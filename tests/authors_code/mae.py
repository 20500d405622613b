"""MAE's `VisionTransformer`, for fine-tuning, and its `MaskedAutoencoderViT`, for pre-training."""

from __future__ import annotations

import timm.models.vision_transformer
import torch
from timm.models.vision_transformer import Block, PatchEmbed
from torch import Tensor, nn


class VisionTransformer(timm.models.vision_transformer.VisionTransformer):
    """timm's, with a forward pass of its own and the mean of the patches, whose norm is `fc_norm`."""

    def __init__(self, global_pool: bool = False) -> None:
        super().__init__(img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=2, num_classes=5)
        self.global_pool = global_pool
        if global_pool:
            self.fc_norm = nn.LayerNorm(32)
            del self.norm

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.pos_drop(x + self.pos_embed)
        for blk in self.blocks:
            x = blk(x)
        return self.fc_norm(x[:, 1:, :].mean(dim=1)) if self.global_pool else self.norm(x)[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))  # as in timm of those days


class MaskedAutoencoderViT(nn.Module):
    """Its encoder sees a part of the patches, in an order drawn at random."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(64, 16, 3, 32)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 32))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, 32), requires_grad=False)
        self.blocks = nn.ModuleList(Block(32, 2, qkv_bias=True) for _ in range(2))
        self.norm = nn.LayerNorm(32)
        self.decoder_embed = nn.Linear(32, 16)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 16))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 17, 16), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(Block(16, 2, qkv_bias=True) for _ in range(2))
        self.decoder_norm, self.decoder_pred = nn.LayerNorm(16), nn.Linear(16, 16 * 16 * 3)

    def random_masking(self, x: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor]:
        b, n, d = x.shape
        order = torch.rand(b, n, device=x.device).argsort(dim=1)
        kept = order[:, : int(n * (1 - mask_ratio))]
        return x.gather(1, kept.unsqueeze(-1).expand(-1, -1, d)), order.argsort(dim=1)

    def forward(self, imgs: Tensor, mask_ratio: float = 0.75) -> Tensor:
        x = self.patch_embed(imgs) + self.pos_embed[:, 1:]
        x, restore = self.random_masking(x, mask_ratio)
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
        for blk in self.blocks:
            x = blk(x)
        x = self.decoder_embed(self.norm(x))
        masked = self.mask_token.expand(len(x), restore.shape[1] + 1 - x.shape[1], -1)
        tokens = torch.cat([x[:, 1:], masked], dim=1)
        tokens = tokens.gather(1, restore.unsqueeze(-1).expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :1], tokens], dim=1) + self.decoder_pos_embed
        for blk in self.decoder_blocks:
            x = blk(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]


MODELS = {
    "MAE VisionTransformer": VisionTransformer,
    "MAE VisionTransformer, global pool": lambda: VisionTransformer(global_pool=True),
    "MAE MaskedAutoencoderViT": MaskedAutoencoderViT,
}
