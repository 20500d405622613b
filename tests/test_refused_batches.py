"""Batches that a method cannot use are refused: empty, odd, or of one image."""

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses, unchanged
from vitreg import (
    BSS,
    L2SP,
    ArgumentError,
    TransMix,
)


@pytest.fixture
def model(vit: object) -> nn.Module:
    return vit().train()


def test_an_empty_batch(model: nn.Module, images: Tensor) -> None:
    for target in ("attn_logits", "block_output", "bss"):
        with unchanged(model), vitreg.attach(model, target=target) as attachment:
            model(images[:0])
            with refuses(ArgumentError, "at least one image", "an empty one", "drop_last=True"):
                attachment.penalty()
            model(images)
            attachment.penalty()


# TransMix and BSS


@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (1, 3, 32, 32), (3, 32, 32)], ids=str)
def test_transmix_odd_batch(model: nn.Module, shape: tuple[int, ...]) -> None:
    labels = torch.zeros(shape[0], dtype=torch.long)
    with (
        unchanged(model),
        TransMix(model, num_classes=5) as mix,
        refuses(ArgumentError, "even batch", str(list(shape)), "drop_last=True"),
    ):
        mix(torch.randn(shape), labels)


@pytest.mark.parametrize("size", [(33, 32), (32, 64), (64, 64), (16, 16), (224, 224)], ids=str)
def test_transmix_wrong_image_size(model: nn.Module, size: tuple[int, int]) -> None:
    with (
        unchanged(model),
        TransMix(model, num_classes=5) as mix,
        refuses(ArgumentError, "4×4 patches", f"{size[0]}×{size[1]}"),
    ):
        mix(torch.randn(2, 3, *size), torch.tensor([0, 1]))


@pytest.mark.parametrize("wrong", [[0, 5], [-1, 0], [0, 99]], ids=str)
def test_transmix_class_index_out_of_range(model: nn.Module, images: Tensor, wrong: list[int]) -> None:
    with (
        unchanged(model),
        TransMix(model, num_classes=5) as mix,
        refuses(ArgumentError, "0 … 4", f"{min(wrong)} … {max(wrong)}"),
    ):
        mix(images[:2], torch.tensor(wrong))


@pytest.mark.parametrize(
    "labels", [torch.tensor([0.0, 1.0]), torch.tensor([0, 1, 2]), torch.eye(2), torch.eye(2).long()], ids=str
)
def test_transmix_no_class_indices(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    with (
        unchanged(model),
        TransMix(model, num_classes=5) as mix,
        refuses(ArgumentError, "2 class indices", str(list(labels.shape)), str(labels.dtype)),
    ):
        mix(images[:2], labels)


def test_bss_of_one_image(model: nn.Module, images: Tensor) -> None:
    with unchanged(model), vitreg.attach(model, target=[BSS(), L2SP()]) as attachment:
        model(images[:1])
        with refuses(ArgumentError, "at least 2 images", "found 1", "larger batch"):
            attachment.penalty()
        assert attachment.step == 0
        assert attachment.terms == {}
