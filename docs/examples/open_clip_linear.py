"""Train a linear head on CLIP's image tower: first the head alone, then all of it, guided (LP-FT)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn

import vitreg


class Classifier(nn.Module):
    """A linear head on the normalised image features."""

    def __init__(self, visual: nn.Module, width: int, num_classes: int) -> None:
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [b, num_classes] of `images` [b, 3, height, width]."""
        return self.head(F.normalize(self.visual(images), dim=-1))


def main(steps: int = 3) -> Classifier:
    """Return the trained classifier."""
    torch.manual_seed(0)
    # A real one: open_clip.create_model("ViT-B-32", pretrained="laion2b_s34b_b79k")
    vision = CLIPVisionCfg(layers=2, width=64, head_width=32, patch_size=16, image_size=64)
    clip = CLIP(32, vision, CLIPTextCfg(context_length=16, width=32, heads=2, layers=1))
    model = Classifier(clip.visual, 32, num_classes=4).train()
    images, labels = torch.randn(8, 3, 64, 64), torch.arange(8) % 4

    optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-2)
    for _ in range(steps):  # nothing is read and nothing can drift: no penalty
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    with vitreg.attach(model, target=["attn_logits", "l2sp", "bss"]) as reg:
        for step in range(steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels) + reg.penalty()
            loss.backward()
            optimizer.step()
            terms = {name: round(value.item(), 6) for name, value in reg.terms.items()}
            print(f"step {step}: loss {loss.item():.3f}, {terms}")
    return model


if __name__ == "__main__":
    main()
