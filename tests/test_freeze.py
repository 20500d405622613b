import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses, unchanged
from small_models import SMALL, make_vit
from vitreg import ArgumentError, UnsupportedModelError

PARTS = {  # literal, by timm's and the others' names
    "attention": ("attn.", "self_attention."),
    "ffn": ("mlp.",),
    "head": (),
}
POSITION = ("pos_embed", "positional_embedding", "encoder.pos_embedding")
HEAD = ("head.", "heads.")


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def expected(model: nn.Module, train: str) -> set[str]:
    names = {name for name, _ in model.named_parameters()}
    return {
        name
        for name in names
        if name.startswith(HEAD)
        or any(part in name for part in PARTS[train])
        or (train != "head" and name in POSITION)
    }


@pytest.mark.parametrize("train", sorted(PARTS))
def test_parts(tower_model: nn.Module, train: str) -> None:
    # open_clip's tower has no head of its own; put into a classifier, it has.
    headless = not any(name.startswith(HEAD) for name, _ in tower_model.named_parameters())
    model = nn.ModuleDict({"tower": tower_model, "head": nn.Linear(8, 3)}) if headless else tower_model
    literal = {f"tower.{name}" for name in expected(tower_model, train)} if headless else set()
    literal |= {"head.weight", "head.bias"} if headless else expected(model, train)
    with unchanged(model):
        frozen = vitreg.freeze(model, train)
        assert trained(model) == literal
        frozen.restore()
        frozen.restore()


def test_a_parameter_that_was_frozen_stays_frozen(vit: object) -> None:
    model = vit()
    model.head.bias.requires_grad_(False)
    with unchanged(model), vitreg.freeze(model, "head"):
        assert trained(model) == {"head.weight"}


def test_restored_after_an_error(vit: object) -> None:
    model = vit()
    with unchanged(model), pytest.raises(ZeroDivisionError), vitreg.freeze(model, train="ffn"):
        raise ZeroDivisionError


def test_one_inside_another(vit: object) -> None:
    model = vit()
    with unchanged(model), vitreg.freeze(model, "attention"):
        before = trained(model)
        with vitreg.freeze(model, "head"):
            assert trained(model) == {"head.weight", "head.bias"}
        assert trained(model) == before


def test_the_head_of_a_classifier_around_clip(clip: object) -> None:
    model = nn.Sequential(clip(), nn.Linear(8, 3))
    with vitreg.freeze(model, "head"):
        assert trained(model) == {"1.weight", "1.bias"}
    with vitreg.freeze(model, "attention"):
        assert not any(name.startswith("0.transformer") for name in trained(model)), (
            "the text tower is frozen"
        )
        assert any("visual.transformer.resblocks.0.attn" in name for name in trained(model))


def test_both_heads_of_a_distilled_model() -> None:
    from timm.models.deit import VisionTransformerDistilled

    model = VisionTransformerDistilled(**SMALL)
    with vitreg.freeze(model, "head"):
        assert trained(model) == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_a_step_moves_only_what_is_trained(vit: object, images: Tensor) -> None:
    model = vit().train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with vitreg.freeze(model, "ffn"):
        expected = trained(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(images).square().sum().backward()
        optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == expected


def test_bad_input(vit: object, clip: object) -> None:
    model = vit()
    with unchanged(model):
        for wrong in ("all", "Attention", None, 3):
            with refuses(ArgumentError, "train must be one of", "attention", "ffn", "head", repr(wrong)):
                vitreg.freeze(model, wrong)
    headless = clip()
    with unchanged(headless), refuses(ArgumentError, "nothing to train", "no task head", "num_classes"):
        vitreg.freeze(headless, "head")
    with refuses(UnsupportedModelError, "Expected a Vision Transformer", "Linear"):
        vitreg.freeze(nn.Linear(2, 2), "head")


def test_a_block_without_separate_parts() -> None:
    from timm.models.vision_transformer import ParallelScalingBlock

    model = make_vit(block_fn=ParallelScalingBlock)
    with unchanged(model), refuses(UnsupportedModelError, "'blocks.0'", "no separate attention"):
        vitreg.freeze(model, "attention")
