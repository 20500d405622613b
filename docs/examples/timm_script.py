"""Guided fine-tuning the way timm's train.py does it; what vitreg adds are the lines with `reg`."""

from __future__ import annotations

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, NativeScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import vitreg


def main(epochs: int = 2) -> tuple[nn.Module, nn.Module]:
    """Return the trained model and its moving average."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # A real one: timm.create_model("vit_base_patch16_224", pretrained=True, num_classes=5)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5, drop_path_rate=0.1)
    model.to(device)
    reg = vitreg.attach(model, target="attn_logits", lam=10.0)  # before DDP and torch.compile

    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-4, weight_decay=0.05, layer_decay=0.75)
    ema = ModelEmaV3(model, decay=0.99)
    scaler = NativeScaler(device=device.type)
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=5)
    criterion = SoftTargetCrossEntropy()
    pictures = TensorDataset(torch.randn(24, 3, 64, 64), torch.arange(24) % 5)
    loader = DataLoader(pictures, batch_size=8, shuffle=True, drop_last=True)
    scheduler, epochs = create_scheduler_v2(optimizer, num_epochs=epochs, warmup_epochs=0)

    for epoch in range(epochs):
        model.train()
        for images, labels in loader:
            images, labels = mixup(images.to(device), labels.to(device))
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = criterion(model(images), labels) + reg.penalty()  # the source sees the mixed images
            optimizer.zero_grad()
            scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
            ema.update(model)
        scheduler.step(epoch + 1)
        print(f"epoch {epoch}: loss {loss.item():.3f}, attn_logits {reg.terms['attn_logits'].item():.6f}")
    reg.remove()
    return model, ema.module


if __name__ == "__main__":
    main()
