"""A stored model that is asked about pictures, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import ExifTags, Image
from torch import Tensor, nn

from vitreg.errors import InputError
from vitreg.pictures.colours import in_colours
from vitreg.pictures.reading import read_picture, upright
from vitreg.train.data.dataset import normalise
from vitreg.train.data.transforms import evaluation_transform
from vitreg.train.models.stored import Card, load_stored
from vitreg.train.runs.predictions import most_probable
from vitreg.train.training.device import make_accelerator
from vitreg.train.training.evaluation import BATCH_SIZE
from vitreg.wording import type_and_value

Picture = str | Path | Image.Image
"""A file, or a picture that is open."""


@dataclass(frozen=True)
class TrainedModel:
    """A model that `finetune` stored, with all it takes to ask it about pictures.

    Attributes:
        network: the Vision Transformer, in eval mode: normalised pictures [b, 3, size, size] to logits.
        card: architecture, size, mean, deviation and class names.
        accelerator: where it runs.
    """

    network: nn.Module
    card: Card
    accelerator: Accelerator

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names."""
        return self.card.classes

    def prepare(self, pictures: Sequence[Picture]) -> Tensor:
        """Return pictures as the network takes them, float32 [b, 3, size, size], cropped as in the test.

        Raises:
            InputError: A file cannot be read.
        """
        return normalise(self._crops(pictures), self.card.mean, self.card.std)

    def probabilities(self, pictures: Sequence[Picture]) -> Tensor:
        """Return the probability of each class, float32 [pictures, classes].

        Raises:
            InputError: A file cannot be read, or the model makes values of it that are not finite.
        """
        return self.probabilities_of(self._crops(pictures))

    @torch.no_grad()
    def probabilities_of(self, crops: Tensor) -> Tensor:
        """Return the same of pictures that are cropped, but not normalised: uint8 [b, 3, size, size].

        Raises:
            InputError: The model makes values of them that are not finite.
        """
        self.network.to(self.accelerator.device).eval()
        found = []
        for batch in crops.split(BATCH_SIZE):
            images = normalise(batch.to(self.accelerator.device), self.card.mean, self.card.std)
            with self.accelerator.autocast():
                logits = self.network(images)
            found.append(logits.float().softmax(1).cpu())
        probabilities = torch.cat(found)
        if not torch.isfinite(probabilities).all():
            raise InputError(
                "expected numbers from the model, found values that are not finite: its weights are damaged, "
                "or bf16 is too coarse for them; train it again, or with --precision no"
            )
        return probabilities

    def top(self, picture: Picture, k: int = 3) -> list[tuple[str, float]]:
        """Return the `k` most probable classes of one picture, each with its probability.

        Raises:
            InputError: The file cannot be read.
        """
        values, places = most_probable(self.probabilities([picture])[0], min(k, len(self.classes)))
        return [
            (self.classes[place], value)
            for value, place in zip(values.tolist(), places.tolist(), strict=True)
        ]

    def _crops(self, pictures: Sequence[Picture]) -> Tensor:
        if isinstance(pictures, str | Path | Image.Image) or not len(pictures):
            raise InputError(f"expected a list of pictures, got {type_and_value(pictures)}; give [picture]")
        crop = evaluation_transform(self.card.size)
        return torch.stack([crop(_open(picture), None)[0] for picture in pictures])


def load_model(model: str | Path, *, device: str = "auto", precision: str = "no") -> TrainedModel:
    """Return a model that `finetune` stored.

    Args:
        model: the `out` of `finetune`, or its model.safetensors.
        device: "auto", "cpu", "cuda" or "mps".
        precision: automatic mixed precision, "no" or "bf16".

    Raises:
        InputError: It cannot be read, or there is no such device.
    """
    network, card = load_stored(Path(model))
    accelerator = make_accelerator(device, precision)
    return TrainedModel(network.to(accelerator.device), card, accelerator)


def _open(picture: Picture) -> Image.Image:
    if isinstance(picture, str | Path):
        return read_picture(Path(picture))
    if not isinstance(picture, Image.Image):
        raise InputError(
            f"expected a file or a picture of Pillow, got {type_and_value(picture)}; try Image.fromarray"
        )
    return upright(in_colours(picture)[0], picture.getexif().get(ExifTags.Base.Orientation, 1))
