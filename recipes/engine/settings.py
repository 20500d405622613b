"""The defaults of a table on photographs, and the protocol of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vitreg.train.training.hyperparameters import Hyperparameters

GUIDED = ("block-output", "msa-output", "GTA")


@dataclass(frozen=True)
class Settings:
    """What a table's options are when they are not given; a method that is not in `lams` has its grid."""

    size: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    lams: Mapping[str, tuple[float, ...]]
    hyper: Hyperparameters
    augment: str
    model: str | None = None


PHOTOS = Settings(
    model="deit_tiny_patch16_224",
    size=224,
    rates=(0.15, 1.0),
    seeds=(0, 1, 2),
    lams=dict.fromkeys(GUIDED, (10.0,)),
    hyper=Hyperparameters(steps=200, batch_size=64, lr=1e-4, weight_decay=0.05, smoothing=0.1),
    augment="rand-m9-mstd0.5-inc1",
)
