"""The plainest attention, which tests change."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Base(nn.Module):
    def __init__(self, dim: int, num_heads: int, **_: object) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("temperature", torch.ones(()))

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-1, -2) * self.scale

    def forward(self, x: Tensor, **_: object) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return (self.logits(q, k).softmax(-1) @ v).transpose(1, 2).flatten(2)
