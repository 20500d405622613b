"""Augmentations that look at the model's own attention."""

from vitreg.augment.transmix import TransMix

__all__ = ["TransMix"]
