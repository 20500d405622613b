import pytest
from torch import Tensor, nn

import vitreg
from laws import refuses, unchanged
from vitreg import ArgumentError, UnsupportedModelError

NAMES = vitreg.list_extractors()


def test_there_are_extractors() -> None:
    assert NAMES


def test_every_library(tower_model: nn.Module, images: Tensor) -> None:
    with unchanged(tower_model):
        found = vitreg.describe(tower_model)
    assert found.model == type(tower_model).__name__
    assert found.name == ""
    assert (found.num_blocks, found.num_heads, found.width) == (3, (2, 2, 2), 16)
    assert found.has_class_token
    assert found.num_prefix_tokens == (5 if getattr(tower_model, "reg_token", None) is not None else 1)
    assert found.grid == (4, 4)
    headless = {"class_logits"} if tower_model(images).shape[1] == 8 else set()  # open_clip's projection
    assert {name for name, why in found.extractors.items() if why} == headless
    text = str(found)
    for part in (found.model, *found.attention, "3 blocks", "2 heads", "width 16", "4×4 patches", *NAMES):
        assert part in text
    assert ("cannot" in text) == bool(headless)


def test_prefix_tokens_are_told_apart(vit: object) -> None:
    assert "class token, 4×4" in str(vitreg.describe(vit()))
    assert "class token, 1 other prefix token, 4×4" in str(vitreg.describe(vit(reg_tokens=1)))
    assert "class token, 4 other prefix tokens, 4×4" in str(vitreg.describe(vit(reg_tokens=4)))


def test_without_a_class_token_the_mean_query_is_left(vit: object) -> None:
    model = vit(class_token=False, global_pool="avg")
    found = vitreg.describe(model)
    assert not found.has_class_token
    assert "no class token" in str(found)
    assert {name for name, why in found.extractors.items() if why} == {"cls_output"}
    assert found.queries == {"cls": (), "mean": (0, 1, 2), "pool": ()}
    assert "whose attention: mean (every block)" in str(found)


def test_unknown_attention(vit: object) -> None:
    class Unknown(nn.Module):
        def __init__(self, dim: int, **_: object) -> None:
            super().__init__()

    found = vitreg.describe(vit(attn_layer=Unknown))
    assert found.num_heads == (None,) * 3
    assert found.attention == ("Unknown",)
    assert not found.extractors["block_output"]
    assert not found.extractors["msa_output"]
    assert found.extractors["attn_logits"].endswith("or register the class")
    assert "None" not in str(found), "a number of heads that is not known is said in words"


@pytest.mark.parametrize("timm_tower", [False, True])
def test_the_visual_tower_of_a_clip_model(clip: object, timm_tower: bool) -> None:
    model = clip(timm_model_name="vit_tiny_patch16_224", timm_pool="") if timm_tower else clip()
    found = vitreg.describe(nn.Sequential(model, nn.Linear(8, 3)))
    assert found.name == ("0.visual.trunk" if timm_tower else "0.visual")
    assert f"at {found.name!r}" in str(found)


def test_no_vision_transformer() -> None:
    with refuses(
        UnsupportedModelError, "Expected a Vision Transformer", "found none in Linear", "register_tower"
    ):
        vitreg.describe(nn.Linear(2, 2))
    with refuses(ArgumentError, "torch.nn.Module", "str"):
        vitreg.describe("vit")
