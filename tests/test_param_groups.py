"""A learning rate for each layer, of every tower that families know; every parameter in one group."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses, unchanged
from small_models import TOWERS, make_clip, make_vit
from support_models import build
from support_table import Row, read_table
from vitreg import ArgumentError, UnsupportedModelError
from vitreg.families import find_tower

STEM = (
    "patch_embed.",
    "cls_token",
    "reg_token",
    "pos_embed",
    "conv_proj.",
    "class_token",
    "encoder.pos_embedding",
)
STEM += ("conv1.", "class_embedding", "positional_embedding", "ln_pre.")
HEAD = ("head.", "heads.")
MATRICES = (
    "qkv.weight",
    "proj.weight",
    "proj_weight",
    "fc1.weight",
    "fc2.weight",
    "fc1_g.weight",
    "fc1_x.weight",
)
MATRICES += (
    "mlp.0.weight",
    "mlp.3.weight",
    "c_fc.weight",
    "c_proj.weight",
    "head.weight",
    "conv1.weight",
    "proj",
)
"""How the libraries call their parameters, typed by hand."""


def literal_layer(name: str) -> int:
    """Return the layer of a parameter of a tower of three blocks, by its name."""
    for index in range(3):
        if any(name.startswith(f"{place}{index}.") for place in BLOCKS):
            return index + 1
    return 0 if name.startswith(STEM) else 5 if name.startswith(HEAD) else 4


BLOCKS = ("blocks.", "encoder.layers.encoder_layer_", "transformer.resblocks.")


def of_names(model: nn.Module, **options: float) -> dict[str, tuple[float, float, str]]:
    """Return learning rate, weight decay and group of each parameter; check that each is in one group."""
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[str, tuple[float, float, str]] = {}
    for group in vitreg.param_groups(model, **{"lr": 1.0, **options}):
        assert group["params"]
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert name not in found, f"{name} is in two groups"
            found[name] = (group["lr"], group["weight_decay"], group["name"])
    return found


@pytest.mark.parametrize("tower", sorted(TOWERS))
def test_each_parameter_has_the_rate_of_its_layer(tower: str) -> None:
    model = TOWERS[tower]()
    with unchanged(model):
        found = of_names(model, weight_decay=0.3, layer_decay=0.5, head_lr=7.0)
    assert found.keys() == {name for name, _ in model.named_parameters()}
    rates = [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 7.0]
    for name, (rate, decay, _) in found.items():
        assert rate == rates[literal_layer(name)], name
        is_matrix = name.endswith(MATRICES) and "conv_proj.bias" not in name
        assert decay == (0.3 if is_matrix else 0.0), name


def test_groups_are_in_the_order_of_the_layers_and_have_names() -> None:
    groups = vitreg.param_groups(make_vit(depth=2), 1.0)
    assert [group["name"] for group in groups] == [
        "stem", "stem, no decay", "blocks.0", "blocks.0, no decay", "blocks.1", "blocks.1, no decay",
        "norm, no decay", "head", "head, no decay",
    ]  # fmt: skip
    rates = [group["lr"] for group in groups]
    assert rates == sorted(rates)
    assert {group["weight_decay"] for group in groups} == {0.05, 0.0}
    assert groups[0]["lr"] == 0.75**3


def test_without_layer_decay_and_with_frozen_parts() -> None:
    model = make_vit()
    assert {rate for rate, _, _ in of_names(model, layer_decay=1).values()} == {1.0}
    with vitreg.freeze(model, "attention"):
        found = of_names(model)
        assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
        assert "blocks.0.mlp.fc1.weight" not in found


def test_a_head_around_clip_and_what_stands_beside_the_tower() -> None:
    model = nn.Sequential(make_clip(), nn.Linear(8, 3))
    found = of_names(model, head_lr=3.0)
    assert found["1.weight"][0] == 3.0
    assert found["0.visual.proj"][::2] == (1.0, "norm")
    assert found["0.visual.transformer.resblocks.2.mlp.c_fc.weight"][0] == 0.75
    assert found["0.transformer.resblocks.0.mlp.c_fc.weight"][::2] == (1.0, "beside")
    assert found["0.token_embedding.weight"][1] == found["0.logit_scale"][1] == 0.0


def test_what_lies_between_blocks_goes_with_the_later_one() -> None:
    from timm.models.swin_transformer import SwinTransformer

    model = SwinTransformer(
        img_size=32, patch_size=4, embed_dim=8, depths=(1, 2), num_heads=(1, 2), window_size=4
    )
    found = of_names(model)
    assert found["layers.1.downsample.reduction.weight"] == found["layers.1.blocks.0.attn.qkv.weight"]
    assert found["layers.0.blocks.0.attn.relative_position_bias_table"][1:] == (
        0.0,
        "layers.0.blocks.0, no decay",
    )
    assert found["patch_embed.proj.weight"][0] == 0.75**4
    assert found["head.fc.weight"][2] == "head"


def test_adapters_have_the_rate_of_their_block() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        make_vit(), peft.LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["head"])
    )
    found = of_names(model, head_lr=2.0)
    assert found["base_model.model.blocks.1.attn.qkv.lora_A.default.weight"][0] == 0.75**2
    assert found["base_model.model.head.modules_to_save.default.weight"][0] == 2.0
    assert all("lora" in name or "modules_to_save" in name for name in found)


def test_an_optimiser_takes_them_and_a_scheduler_keeps_their_proportions(images: Tensor) -> None:
    model = make_vit()
    optimizer = torch.optim.AdamW(vitreg.param_groups(model, 1e-2))
    before = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    model(images).square().sum().backward()
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [rate / 2 for rate in before]


def test_bad_input() -> None:
    model = make_vit()
    with unchanged(model):
        for name in ("lr", "head_lr", "layer_decay"):
            for wrong in (0, -1.0, float("nan"), float("inf"), "1", True):
                with refuses(ArgumentError, f"{name} must be a number above 0", repr(wrong)):
                    vitreg.param_groups(model, **{"lr": 1.0, name: wrong})
        with refuses(ArgumentError, "layer_decay must be at most 1", "1.5"):
            vitreg.param_groups(model, 1.0, layer_decay=1.5)
        for wrong in (-0.1, float("nan"), True):
            with refuses(ArgumentError, "weight_decay must be a number of at least 0", repr(wrong)):
                vitreg.param_groups(model, 1.0, wrong)
    with refuses(ArgumentError, "Expected parameters to train", "all of them frozen"):
        vitreg.param_groups(model.requires_grad_(False), 1.0)
    with refuses(UnsupportedModelError, "Expected a Vision Transformer", "Linear"):
        vitreg.param_groups(nn.Linear(2, 2), 1.0)
    with refuses(
        UnsupportedModelError, "Expected blocks in VisionTransformer, found none", "one learning rate"
    ):
        vitreg.param_groups(make_vit(depth=0), 1.0)


CLASSES = list({(row.library, row.family): row for row in read_table() if row.outputs}.values())
"""One model of each class in the support table."""


@pytest.mark.slow
@pytest.mark.parametrize("row", CLASSES, ids=lambda row: f"{row.library}-{row.name}")
def test_every_supported_class(row: Row) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constructors, which differ from version to version
        model = build(row.library, row.name)
    tower = find_tower(model)
    found = of_names(model, layer_decay=0.5, head_lr=3.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    rates = [found[names[id(next(block.module.parameters()))]][0] for block in tower.blocks]
    assert rates == sorted(rates)
    assert rates[-1] == 0.5
    first = (
        [found[names[id(p)]][0] for p in tower.stem.parameters() if p.requires_grad]
        if tower.stem is not tower.module
        else []
    )
    assert all(rate < rates[0] for rate in first)
    head = {names[id(p)] for name in tower.heads for p in tower.module.get_submodule(name).parameters()}
    if tower.home is tower.module:
        assert all(found[name][0] == 3.0 for name in head)
    for name, (_, decay, _) in found.items():
        assert decay == 0 or model.get_parameter(name).dim() > 1, name
    for name in tower.position_embeddings:
        if tower.module.get_parameter(name).requires_grad:  # MAE's are fixed
            assert found[names[id(tower.module.get_parameter(name))]][1] == 0, name
    inside = {names[id(p)] for p in tower.module.parameters() if p.dim() > 1}
    decayed = sum(model.get_parameter(name).numel() for name in inside if name in found and found[name][1])
    assert decayed > 0.5 * sum(model.get_parameter(name).numel() for name in inside)


def test_the_table_has_classes() -> None:
    assert len(CLASSES) > 50
