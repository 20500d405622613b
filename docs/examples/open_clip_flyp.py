"""Fine-tune CLIP as it was pre-trained (FLYP): pictures against captions, with the image tower guided."""

from __future__ import annotations

import torch
from open_clip import ClipLoss
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer

import vitreg

CLASSES = ["an apple", "a banana", "a carrot", "a lemon"]


def make_clip() -> CLIP:
    """Return a small CLIP without a download."""
    # A real one: open_clip.create_model("ViT-B-32", pretrained="laion2b_s34b_b79k")
    vision = CLIPVisionCfg(layers=2, width=64, head_width=32, patch_size=16, image_size=64)
    text = CLIPTextCfg(context_length=16, width=32, heads=2, layers=1)
    return CLIP(32, vision, text)


def main(steps: int = 4) -> CLIP:
    """Return the trained model."""
    torch.manual_seed(0)
    clip = make_clip().train()
    tokenize = SimpleTokenizer(context_length=16)
    contrastive = ClipLoss()
    optimizer = torch.optim.AdamW(clip.parameters(), lr=1e-4, weight_decay=0.1)

    # The image tower is found inside the CLIP model; both penalties concern it alone.
    reg = vitreg.attach(clip, target=["attn_logits", "l2sp"])
    for step in range(steps):
        images, labels = torch.randn(4, 3, 64, 64), torch.arange(4)  # a batch with each class once
        captions = tokenize([f"a photo of {CLASSES[label]}" for label in labels])
        image_features, text_features, scale = clip(images, captions)
        loss = contrastive(image_features, text_features, scale) + reg.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        terms = {name: round(value.item(), 6) for name, value in reg.terms.items()}
        print(f"step {step}: loss {loss.item():.3f}, {terms}")
    reg.remove()
    return clip


if __name__ == "__main__":
    main()
