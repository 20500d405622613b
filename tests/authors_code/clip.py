"""OpenAI's `CLIP`, and the classifiers that wise-ft and FLYP make of it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(nn.Module):
    """Tokens come first, [n, b, d]."""

    def __init__(self, d_model: int, n_head: int, attn_mask: Tensor | None = None) -> None:
        super().__init__()
        self.attn, self.ln_1 = nn.MultiheadAttention(d_model, n_head), LayerNorm(d_model)
        parts = {"c_fc": nn.Linear(d_model, d_model * 4), "gelu": QuickGELU()}
        self.mlp = nn.Sequential(OrderedDict(**parts, c_proj=nn.Linear(d_model * 4, d_model)))
        self.ln_2 = LayerNorm(d_model)
        self.attn_mask = attn_mask

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=self.attn_mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, attn_mask: Tensor | None = None) -> None:
        super().__init__()
        self.width, self.layers = width, layers
        self.resblocks = nn.Sequential(
            *(ResidualAttentionBlock(width, heads, attn_mask) for _ in range(layers))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class VisionTransformer(nn.Module):
    def __init__(self, input_resolution: int, patch_size: int, width: int, output_dim: int) -> None:
        super().__init__()
        self.input_resolution, self.output_dim = input_resolution, output_dim
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        count = (input_resolution // patch_size) ** 2 + 1
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(count, width))
        self.ln_pre, self.transformer = LayerNorm(width), Transformer(width, 2, 2)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, output_dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).permute(0, 2, 1)
        first = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = self.ln_pre(torch.cat([first, x], dim=1) + self.positional_embedding.to(x.dtype))
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        return self.ln_post(x[:, 0, :]) @ self.proj


class CLIP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.context_length, self.vocab_size = 8, 50
        self.visual = VisionTransformer(64, 16, 32, 16)
        mask = torch.full((8, 8), float("-inf")).triu_(1)
        self.transformer = Transformer(32, 2, 2, mask)
        self.token_embedding = nn.Embedding(50, 32)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(8, 32))
        self.ln_final = LayerNorm(32)
        self.text_projection = nn.Parameter(0.1 * torch.randn(32, 16))
        self.logit_scale = nn.Parameter(torch.ones([]))

    @property
    def dtype(self) -> torch.dtype:
        return self.visual.conv1.weight.dtype

    def encode_image(self, image: Tensor) -> Tensor:
        return self.visual(image.type(self.dtype))

    def encode_text(self, text: Tensor) -> Tensor:
        x = self.token_embedding(text) + self.positional_embedding
        x = self.ln_final(self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2))
        return x[torch.arange(x.shape[0]), text.argmax(dim=-1)] @ self.text_projection

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        one, two = self.encode_image(image), self.encode_text(text)
        one, two = one / one.norm(dim=-1, keepdim=True), two / two.norm(dim=-1, keepdim=True)
        logits = self.logit_scale.exp() * one @ two.t()
        return logits, logits.t()


class ImageEncoder(nn.Module):
    """wise-ft's and FLYP's: CLIP whose text tower may be deleted."""

    def __init__(self, keep_lang: bool = False) -> None:
        super().__init__()
        self.model = CLIP()
        if not keep_lang:
            del self.model.transformer

    def forward(self, images: Tensor) -> Tensor:
        return self.model.encode_image(images)


class CLIPEncoder(nn.Module):
    """FLYP's, with the model of open_clip's copy, which takes pictures, texts or both."""

    def __init__(self) -> None:
        super().__init__()
        self.model = CLIP()

    def forward(self, images: Tensor, text: Tensor | None = None) -> Any:
        return self.model.encode_image(images) if text is None else self.model(images, text)


class ClassificationHead(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs / inputs.norm(dim=-1, keepdim=True))


class ImageClassifier(nn.Module):
    def __init__(self, image_encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder, self.classification_head = image_encoder, ClassificationHead(16, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classification_head(self.image_encoder(inputs))


MODELS = {
    "OpenAI CLIP": CLIP,
    "OpenAI CLIP VisionTransformer": lambda: VisionTransformer(64, 16, 32, 16),
    "wise-ft ImageClassifier": lambda: ImageClassifier(ImageEncoder()),
    "FLYP ImageClassifier": lambda: ImageClassifier(CLIPEncoder()),
}
