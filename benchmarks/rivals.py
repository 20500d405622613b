"""What users write today for the same penalties, as variants of the training step.

Each computes the very value that vitreg computes, which `tests/test_benchmarks.py` checks.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn

from training import NotApplicable, Setting, Variant


def guide(
    source: Callable[..., Any], part: Callable[[Tensor], Tensor] = lambda kept: kept
) -> Callable[[Sequence[Tensor], Tensor], Tensor]:
    """Return the mean over blocks of the squared distance to what `source` keeps of the same images."""

    def penalty(kept: Sequence[Tensor], images: Tensor) -> Tensor:
        with torch.no_grad():
            _, theirs = source(images)
        blocks = [F.mse_loss(part(t), part(s)) for t, s in zip(kept, theirs, strict=True)]
        return torch.stack(blocks).mean()

    return penalty


class WithLogits(nn.Module):
    """A timm model that computes attention unfused and hands over the logits of every block, [b, h, n, n]."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model
        for block in model.blocks:
            block.attn.forward = types.MethodType(_unfused_attention, block.attn)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        logits = self.model(images)
        return logits, [block.attn.logits for block in self.model.blocks]


def _unfused_attention(self: Any, x: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
    b, n, d = x.shape
    q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    self.logits = (self.q_norm(q) * self.scale) @ self.k_norm(k).transpose(-2, -1)
    x = self.attn_drop(self.logits.softmax(dim=-1)) @ v
    return self.proj_drop(self.proj(self.norm(x.transpose(1, 2).reshape(b, n, d))))


def gta_from_unfused_attention(setting: Setting) -> Variant:
    """Guide the [CLS] row of full logit matrices, of a model and a source without fused attention."""
    model = plain_timm(setting.model())
    num_prefix = model.num_prefix_tokens
    source = setting.ready(WithLogits(plain_timm(setting.model().eval().requires_grad_(False))))
    return Variant(WithLogits(model), guide(source, lambda logits: logits[:, :, 0, num_prefix:]))


class WithBlockOutputs(nn.Module):
    """A timm model that hands over the output of every block, all tokens, by timm's own feature getter."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        final, pairs = self.model.forward_intermediates(images, return_prefix_tokens=True, output_fmt="NLC")
        return self.model.forward_head(final), [torch.cat([prefix, patches], 1) for patches, prefix in pairs]


def block_outputs_from_feature_getter(setting: Setting) -> Variant:
    """Guide the output of every block, got by `forward_intermediates` from the model and from the source."""
    source = setting.ready(WithBlockOutputs(plain_timm(setting.source)))
    return Variant(WithBlockOutputs(plain_timm(setting.model())), guide(source))


class WithFeatures(nn.Module):
    """A model with timm's method names that hands over what its head receives, [b, d]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
        return self.model.head(features), features


def bss_by_svd(setting: Setting) -> Variant:
    """Shrink the smallest singular value, with the authors' weight."""
    model = setting.model()
    if not hasattr(model, "forward_head"):
        raise NotApplicable(f"{type(model).__name__} has no forward_head")
    return Variant(WithFeatures(model), lambda kept, images: 1e-3 * smallest_by_svd(kept, k=1))


def smallest_by_svd(features: Tensor, *, k: int) -> Tensor:
    """Return the sum of the squares of the k smallest singular values of `features` [b, d].

    Source: github.com/thuml/Transfer-Learning-Library, `BatchSpectralShrinkage`.
    """
    _, singular, _ = torch.svd(features.float().t())
    return sum((singular[-1 - i].pow(2) for i in range(k)), singular.new_zeros(()))


def l2sp_in_a_loop(setting: Setting) -> Variant:
    """Pull every weight to its start and the head's to zero, one after another, with vitreg's weights."""
    model = setting.model()
    start = {name: parameter.detach() for name, parameter in setting.source.named_parameters()}

    def penalty(kept: None, images: Tensor) -> Tensor:
        # NOTE[DIFF]: weights only, as the authors of L2-SP and vitreg do; `SPRegularization` of the
        # Transfer-Learning-Library takes biases too.
        weights = [(name, p) for name, p in model.named_parameters() if p.dim() >= 2]
        backbone = ((p, start[name]) for name, p in weights if not name.startswith("head."))
        head = ((p, torch.zeros_like(p)) for name, p in weights if name.startswith("head."))
        return 0.1 * (half_squares_in_a_loop(backbone) + 0.1 * half_squares_in_a_loop(head))

    return Variant(model, penalty)


def half_squares_in_a_loop(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return half the squared distance of each pair, summed.

    Source: github.com/thuml/Transfer-Learning-Library, `SPRegularization`.
    """
    total: Any = 0.0
    for parameter, start in pairs:
        total += 0.5 * torch.norm(parameter - start) ** 2
    return total


def plain_timm(model: Any) -> VisionTransformer:
    """Return `model` if it is timm's Vision Transformer with its plain attention and a class token."""
    plain = isinstance(model, VisionTransformer) and model.cls_token is not None
    if not plain or any(type(block.attn) is not Attention for block in model.blocks):
        raise NotApplicable(f"written for timm's VisionTransformer, not for {type(model).__name__}")
    return model
