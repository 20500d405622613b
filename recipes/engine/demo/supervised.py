"""The offline demo's small model, and the source that is pre-trained once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.nn import functional as F

from engine.demo import world
from vitreg.files import check_with_sum, write_with_sum
from vitreg.train.data import dataset

MEAN = STD = (0.5, 0.5, 0.5)
"""Of the pictures, in each channel: a picture of 0 to 1 becomes one of −1 to 1."""


@dataclass(frozen=True)
class SourceSettings:
    """How the demo's source is pre-trained, on pictures that are drawn anew at every step."""

    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.15  # of the steps
    clip: float = 1.0  # norm of the gradient
    seed: int = 0


SOURCE = SourceSettings()
SOURCE_STEPS = 600
ARCHITECTURE: Mapping[str, float] = {
    "img_size": world.IMAGE_SIZE,
    "patch_size": 4,
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 2,
    "mlp_ratio": 2.0,
}


def create_model(num_classes: int) -> nn.Module:
    """Return the demo's ViT with random weights: 64 patches of 4 × 4 pixels, 4 blocks, 2 heads, width 64."""
    return VisionTransformer(num_classes=num_classes, **ARCHITECTURE)


def source_checkpoint(
    cache: Path, *, steps: int = SOURCE_STEPS, progress: Callable[[int, int], None] = lambda done, total: None
) -> Path:
    """Return the file with the source's weights in `cache`; it is pre-trained unless it is there.

    `progress` is told after each step how many are done, of how many.
    """
    return stored_weights(cache, "source", SOURCE, steps, lambda: _pretrain(steps, progress))


def stored_weights(
    cache: Path, name: str, settings: SourceSettings, steps: int, pretrain: Callable[[], nn.Module]
) -> Path:
    """Return the file with the weights of a source in `cache`, those of `pretrain()` unless it is there.

    The file's name has a hash of all that the weights depend on, and it appears only when it is complete.
    """
    path = cache / f"demo-{name}-{fingerprint(settings, steps)}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_with_sum(path, save(pretrain().state_dict()))
    check_with_sum(path)
    return path


def fingerprint(settings: SourceSettings, steps: int) -> str:
    """Return a hash of the settings and of a few pictures, in which every number of the world shows."""
    told = (steps, sorted(asdict(settings).items()), sorted(ARCHITECTURE.items()))
    pictures = world.draw_source(64, seed=settings.seed)
    return hashlib.sha256(repr(told).encode() + pictures.images.numpy().tobytes()).hexdigest()[:12]


def _pretrain(steps: int, progress: Callable[[int, int], None]) -> nn.Module:
    """Return a plain classifier of the source's classes; the caller's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SOURCE.seed)
        model = create_model(world.NUM_SOURCE_CLASSES)
    descend = optimisation(model, SOURCE, steps)
    for step in range(steps):
        pictures = world.draw_source(SOURCE.batch_size, seed=step)
        descend(F.cross_entropy(model(normalise(pictures.images)), pictures.labels))
        progress(step + 1, steps)
    return model


def optimisation(model: nn.Module, settings: SourceSettings, steps: int) -> Callable[[Tensor], None]:
    """Return what takes a step down a loss: AdamW, which decays matrices only, with a warm-up."""
    optimizer = torch.optim.AdamW(param_groups_weight_decay(model, settings.weight_decay))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.lr, total_steps=steps, pct_start=settings.warmup
    )

    def descend(loss: Tensor) -> None:
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        schedule.step()

    return descend


def normalise(images: Tensor) -> Tensor:
    """Return pictures [b, 3, H, W] of 0 to 255 as the model reads them: float32, −1 to 1."""
    return dataset.normalise(images, MEAN, STD)
