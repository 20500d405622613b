"""MONAI's `ViT` on flat pictures: with a classifier or without, and with patches by rearranging."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops.layers.torch import Rearrange
from torch import Tensor, nn


class SABlock(nn.Module):
    """Keeps unused projections of q, k and v, one `nn.Identity` for all three."""

    def __init__(
        self, hidden_size: int, num_heads: int, dropout_rate: float, use_flash_attention: bool
    ) -> None:
        super().__init__()
        self.num_heads, self.dim_head = num_heads, hidden_size // num_heads
        self.out_proj = nn.Linear(hidden_size, hidden_size)
        self.qkv = nn.Linear(hidden_size, hidden_size * 3, bias=False)
        self.to_q = self.to_k = self.to_v = nn.Identity()
        self.input_rearrange = Rearrange("b h (qkv l d) -> qkv b l h d", qkv=3, l=num_heads)
        self.out_rearrange = Rearrange("b l h d -> b h (l d)")
        self.drop_output, self.drop_weights = nn.Dropout(dropout_rate), nn.Dropout(dropout_rate)
        self.scale, self.use_flash_attention = self.dim_head**-0.5, use_flash_attention
        self.causal_mask = torch.Tensor()

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        q, k, v = self.input_rearrange(self.qkv(x))
        if self.use_flash_attention:
            x = F.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=attn_mask, scale=self.scale)
        else:
            att_mat = (torch.einsum("blxd,blyd->blxy", q, k) * self.scale).softmax(dim=-1)
            x = torch.einsum("bhxy,bhyd->bhxd", self.drop_weights(att_mat), v)
        return self.drop_output(self.out_proj(self.out_rearrange(x)))


class MLPBlock(nn.Module):
    def __init__(self, hidden_size: int, mlp_dim: int, dropout_rate: float) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(hidden_size, mlp_dim), nn.Linear(mlp_dim, hidden_size)
        self.fn, self.drop1, self.drop2 = nn.GELU(), nn.Dropout(dropout_rate), nn.Dropout(dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop2(self.linear2(self.drop1(self.fn(self.linear1(x)))))


class CrossAttentionBlock(nn.Module):
    """In older versions each block has one, which does not run."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(hidden_size, hidden_size) for _ in range(3))


class TransformerBlock(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int, dropout_rate: float, flash: bool) -> None:
        super().__init__()
        self.mlp, self.norm1 = MLPBlock(hidden_size, 64, dropout_rate), nn.LayerNorm(hidden_size)
        self.attn = SABlock(hidden_size, num_heads, dropout_rate, flash)
        self.norm2 = nn.LayerNorm(hidden_size)
        self.with_cross_attention = False
        self.norm_cross_attn = nn.LayerNorm(hidden_size)
        self.cross_attn = CrossAttentionBlock(hidden_size, num_heads)

    def forward(self, x: Tensor, context: None = None, attn_mask: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), attn_mask=attn_mask)
        return x + self.mlp(self.norm2(x))


class PatchEmbeddingBlock(nn.Module):
    def __init__(self, in_channels: int, hidden_size: int, proj_type: str, dropout_rate: float) -> None:
        super().__init__()
        self.proj_type = proj_type
        if proj_type == "conv":
            self.patch_embeddings = nn.Conv2d(in_channels, hidden_size, kernel_size=16, stride=16)
        else:
            places = "b c (h p1) (w p2) -> b (h w) (p1 p2 c)"
            linear = nn.Linear(in_channels * 256, hidden_size)
            self.patch_embeddings = nn.Sequential(Rearrange(places, p1=16, p2=16), linear)
        self.position_embeddings = nn.Parameter(torch.zeros(1, 16, hidden_size))
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embeddings(x)
        x = x.flatten(2).transpose(-1, -2) if self.proj_type == "conv" else x
        return self.dropout(x + self.position_embeddings)


class ViT(nn.Module):
    """Returns its output and the hidden states of all blocks."""

    def __init__(
        self,
        in_channels: int = 3,
        classification: bool = False,
        proj_type: str = "conv",
        dropout_rate: float = 0.0,
        flash: bool = False,
    ) -> None:
        super().__init__()
        self.classification = classification
        self.patch_embedding = PatchEmbeddingBlock(in_channels, 32, proj_type, dropout_rate)
        self.blocks = nn.ModuleList(TransformerBlock(32, 2, dropout_rate, flash) for _ in range(2))
        self.norm = nn.LayerNorm(32)
        if classification:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 32))
            self.classification_head = nn.Sequential(nn.Linear(32, 5), nn.Tanh())

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = self.patch_embedding(x)
        if self.classification:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        hidden_states_out = []
        for blk in self.blocks:
            x = blk(x)
            hidden_states_out.append(x)
        x = self.norm(x)
        return self.classification_head(x[:, 0]) if self.classification else x, hidden_states_out


MODELS = {
    "MONAI ViT": ViT,
    "MONAI ViT, classification": lambda: ViT(classification=True, dropout_rate=0.1),
    "MONAI ViT, perceptron": lambda: ViT(in_channels=1, proj_type="perceptron"),
    "MONAI ViT, flash attention": lambda: ViT(flash=True),
}
