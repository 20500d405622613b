"""Sources that differ from the model are refused at once, with a clear error."""

import pytest
from torch import nn

import vitreg
from laws import refuses, unchanged
from small_models import TOWERS
from vitreg import (
    ArgumentError,
    MismatchError,
    UnsupportedModelError,
)


@pytest.fixture
def model(vit: object) -> nn.Module:
    return vit().train()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"depth": 2}, ("blocks: 3 in the model, 2 in the source",)),
        ({"num_heads": 4}, ("heads: 2 in the model, 4 in the source",)),
        ({"img_size": 64}, ("patch grid: (4, 4) in the model, (8, 8) in the source",)),
        ({"patch_size": 16}, ("patch grid: (4, 4) in the model, (2, 2) in the source",)),
        ({"embed_dim": 32}, ("width: 16 in the model, 32 in the source",)),
        ({"reg_tokens": 2}, ("prefix tokens: 1 in the model, 3 in the source",)),
        (
            {"class_token": False, "global_pool": "avg"},
            ("class token: True in the model, False in the source", "prefix tokens"),
        ),
        ({"depth": 2, "num_heads": 4}, ("blocks", "heads")),
    ],
    ids=str,
)
@pytest.mark.parametrize("target", ["attn_logits", "block_output", "l2sp"])
def test_a_source_that_differs(vit: object, options: dict, parts: tuple[str, ...], target: str) -> None:
    model, source = vit(), vit(**options)
    with (
        unchanged(model),
        unchanged(source),
        refuses(MismatchError, "own architecture", *parts, "Create both by the same call", "source=None"),
    ):
        vitreg.attach(model, source, target=target)


def test_a_source_of_another_class(model: nn.Module) -> None:
    source = TOWERS["timm_beit"]()
    with (
        unchanged(model),
        unchanged(source),
        refuses(MismatchError, "VisionTransformer in the model", "Beit in the source", "same call"),
    ):
        vitreg.attach(model, source)


def test_another_attachments_source_that_differs(vit: object, model: nn.Module) -> None:
    other = vit(depth=2)
    with (
        vitreg.attach(other) as attachment,
        unchanged(model),
        refuses(MismatchError, "blocks: 3", "2 in the"),
    ):
        vitreg.attach(model, attachment.source)


@pytest.mark.parametrize("wrong", ["vit", 3, {}], ids=str)
@pytest.mark.parametrize("target", ["attn_logits", "bss"])
def test_no_source(model: nn.Module, wrong: object, target: str) -> None:
    with unchanged(model), refuses(ArgumentError, "source must be a module", type(wrong).__name__):
        vitreg.attach(model, wrong, target=target)


def test_a_long_value_is_shown_by_its_beginning(model: nn.Module) -> None:
    with pytest.raises(ArgumentError, match=r"got OrderedDict \(OrderedDict") as caught:
        vitreg.attach(model, model.state_dict())
    assert len(str(caught.value)) < 200


def test_a_source_without_a_vision_transformer(model: nn.Module) -> None:
    with unchanged(model), refuses(UnsupportedModelError, "Expected a Vision Transformer", "none in Linear"):
        vitreg.attach(model, nn.Linear(2, 2))
