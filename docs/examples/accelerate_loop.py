"""Guided fine-tuning in a loop of Hugging Face's Accelerate: any number of processes, any precision.

Start it with `accelerate launch docs/examples/accelerate_loop.py`, or with `python` for one process.
"""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import vitreg


def main(epochs: int = 2) -> nn.Module:
    """Return the trained model."""
    torch.manual_seed(0)
    # A real one: timm.create_model("vit_base_patch16_224", pretrained=True, num_classes=5)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5)
    pictures = TensorDataset(torch.randn(24, 3, 64, 64), torch.arange(24) % 5)
    loader = DataLoader(pictures, batch_size=4, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    # Attach first: prepare() moves, wraps and compiles the model. The source moves along by itself.
    reg = vitreg.attach(model, target=["attn_logits", "bss"])
    accelerator = Accelerator(gradient_accumulation_steps=2)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    for epoch in range(epochs):
        for images, labels in loader:
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    loss = F.cross_entropy(model(images), labels) + reg.penalty()
                accelerator.backward(loss)  # which divides loss and penalty by the batches of a step
                optimizer.step()
                optimizer.zero_grad()
        terms = {name: round(value.item(), 6) for name, value in reg.terms.items()}
        accelerator.print(f"epoch {epoch}: loss {loss.item():.3f}, {terms}")
    reg.remove()
    return accelerator.unwrap_model(model)


if __name__ == "__main__":
    main()
