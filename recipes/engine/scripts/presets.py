"""The protocol of the paper, and a run that only shows that everything works."""

from __future__ import annotations

from dataclasses import replace

from engine.settings import Settings
from vitreg.train.training.hyperparameters import Hyperparameters

# NOTE[DIFF]: stated are model, AdamW, learning rate, weight decay, steps, batch, size and RandAugment without
# erasing. Warm-up, smoothing, drop path and RandAugment's strength are those of DINO's and DeiT's
# fine-tuning. The paper gives each method the best λ of its grid without saying on which pictures: here it is
# chosen on training pictures that are held out, unless one asks for the test pictures.
PAPER = Settings(
    model="vit_small_patch16_224",
    size=224,
    rates=(0.15, 1.0),
    seeds=(0, 1, 2),
    lams={},
    hyper=Hyperparameters(
        steps=3000, batch_size=768, lr=1e-4, weight_decay=0.05, warmup_epochs=5, smoothing=0.1, drop_path=0.1
    ),
    augment="rand-m9-mstd0.5-inc1",
)


def quick(settings: Settings) -> Settings:
    """Return the settings of a run that only shows that everything works."""
    hyper = replace(settings.hyper, steps=4, batch_size=min(8, settings.hyper.batch_size))
    return replace(settings, rates=settings.rates[-1:], seeds=(0,), hyper=hyper)
