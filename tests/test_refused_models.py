"""Models that cannot be guided are refused at once, with a clear error, and nothing changed on them."""

import re

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses, unchanged
from vitreg import (
    ArgumentError,
    MismatchError,
    StateError,
    TransMix,
    UnsupportedModelError,
)


@pytest.fixture
def model(vit: object) -> nn.Module:
    return vit().train()


@pytest.mark.parametrize(
    "wrong", [None, "vit_small_patch16_224", 3, torch.ones(1)], ids=lambda w: type(w).__name__
)
def test_no_module(wrong: object) -> None:
    for call in (vitreg.attach, vitreg.describe, lambda m: vitreg.trace(m, "attn_logits").__enter__()):
        with refuses(ArgumentError, "torch.nn.Module", type(wrong).__name__):
            call(wrong)


def test_no_known_model() -> None:
    convolutional = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    message = (
        "Sequential is no Vision Transformer: it has no attention",
        "Expected a Vision Transformer: a known class",
        "vitreg.register_tower",
    )
    with unchanged(convolutional):
        with refuses(UnsupportedModelError, *message):
            vitreg.attach(convolutional)
        with refuses(UnsupportedModelError, *message):
            TransMix(convolutional, num_classes=5)


def test_known_attention_in_an_unknown_model() -> None:
    encoder = nn.TransformerEncoderLayer(16, 2)
    with (
        unchanged(encoder),
        refuses(
            UnsupportedModelError,
            "found none in TransformerEncoderLayer",
            "MultiheadAttention",
            "register_tower",
        ),
    ):
        vitreg.attach(encoder)


def test_no_known_attention(vit: object) -> None:
    class Other(nn.Module):
        def __init__(self, dim: int, **_: object) -> None:
            super().__init__()
            self.mix = nn.Linear(dim, dim)

        def forward(self, x: Tensor, **_: object) -> Tensor:
            return self.mix(x)

    model = vit(attn_layer=Other)
    message = ("'blocks.0'", "expected attention of a known family", "Other", "block_output")
    with unchanged(model):
        with refuses(UnsupportedModelError, *message, "register_family"):
            vitreg.attach(model)
        with refuses(UnsupportedModelError, "attention of a known family", "Other", "register_family"):
            TransMix(model, num_classes=5)


def test_no_class_token(vit: object) -> None:
    model = vit(class_token=False, global_pool="avg")
    with (
        unchanged(model),
        refuses(
            UnsupportedModelError,
            "attn_logits",
            "needs a class token",
            "has none",
            "query='mean'",
            "block_output",
        ),
    ):
        vitreg.attach(model)


def test_two_vision_transformers(vit: object) -> None:
    model = nn.ModuleDict({"left": vit(), "right": vit()})
    with (
        unchanged(model),
        refuses(
            UnsupportedModelError, "Expected one", "found 2", "'left'", "'right'", "Pass the one you mean"
        ),
    ):
        vitreg.attach(model)


@pytest.mark.parametrize("where", ["whole", "in place", "a block", "inside"])
def test_compiled_already(vit: object, where: str) -> None:
    inner = vit()
    model: nn.Module = inner
    if where == "whole":
        model = torch.compile(inner, backend="eager")
    elif where == "in place":
        inner.compile(backend="eager")
    elif where == "a block":
        inner.blocks[1].compile(backend="eager")
    else:
        model = nn.Sequential(nn.Identity(), torch.compile(inner, backend="eager"))
    message = ("Expected an eager model", "compiled by torch.compile", "Attach first")
    with unchanged(inner):
        with refuses(ArgumentError, *message):
            vitreg.attach(model)
        with refuses(ArgumentError, *message):
            vitreg.trace(model, "features").__enter__()
        with refuses(ArgumentError, *message):
            TransMix(model, num_classes=5)


def test_data_parallel(model: nn.Module) -> None:
    wrapped = nn.DataParallel(model)
    with unchanged(model), refuses(ArgumentError, "nn.DataParallel", "DistributedDataParallel"):
        vitreg.attach(wrapped)


# Every error


def test_errors_are_pythons_own_too() -> None:
    assert issubclass(ArgumentError, ValueError)
    assert issubclass(MismatchError, ValueError)
    assert issubclass(UnsupportedModelError, TypeError)
    assert issubclass(StateError, RuntimeError)
    for error in (ArgumentError, MismatchError, UnsupportedModelError, StateError):
        assert issubclass(error, vitreg.VitregError)
        assert re.search(r"\w+\.$", error.__doc__ or "")


def test_a_convolutional_network_beside_it_is_not_meant(vit: object) -> None:
    import timm

    both = nn.ModuleDict({"detector": timm.create_model("mobilenetv3_small_050"), "vit": vit()})
    assert vitreg.describe(both).name == "vit"
