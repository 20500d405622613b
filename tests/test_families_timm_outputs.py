"""timm's models: what blocks and attention return, which patches there are, and what is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.hybrid_embed import HybridEmbed
from torch import Tensor, nn

import vitreg
from small_models import make_vit
from timm_families import (
    MODELS,
    Truth,
    build,
    expected_logits,
    images_of,
)
from vitreg.families import find_tower
from vitreg.hooks import Hooks
from vitreg.types import Tap


def _spied(name: str, **taps: str) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    """Return the first block, its msa_output, and what left (or, after "<", entered) modules inside it."""
    model = build(name).eval()
    block, seen = find_tower(model).blocks[0].module, {}
    hooks = Hooks(
        (
            Tap(block.get_submodule(place.lstrip("<")), "input" if place.startswith("<") else "output"),
            partial(seen.__setitem__, key),
        )
        for key, place in taps.items()
    )
    with vitreg.trace(model, "msa_output", layers=[0]) as read:
        model(images_of(name))
    hooks.remove()
    return block, read["msa_output"][0], seen


def test_output_of_a_parallel_block() -> None:
    _, ours, seen = _spied("parallel", mlp="mlp_out_proj", both="ls")
    torch.testing.assert_close(ours, seen["both"] - seen["mlp"])


@pytest.mark.parametrize("name", ["parallel_fused", "diff_parallel"])
def test_output_of_a_parallel_block_with_one_projection(name: str) -> None:
    block, ours, seen = _spied(name, hidden="mlp_drop", both="out_proj")
    mlp = nn.functional.linear(seen["hidden"], block.out_proj.weight[:, 16:], block.out_proj.bias)
    torch.testing.assert_close(ours, seen["both"] - mlp)


def test_output_of_attentions_side_by_side() -> None:
    _, ours, seen = _spied("parallel_things", before="<attns.0.norm", after="<ffns.0.norm")
    torch.testing.assert_close(ours, seen["after"][0][0] - seen["before"][0][0])


def test_output_of_tokens_in_a_grid() -> None:
    model = build("volo").eval()
    with vitreg.trace(model, "msa_output", "block_output") as read:
        model(images_of("volo"))
    on_grids = [(2, 64, 16), *[(2, 16, 32)] * 3]
    assert [tuple(value.shape) for value in read["msa_output"]] == [*on_grids, *[(2, 1, 32)] * 2]
    assert [tuple(value.shape) for value in read["block_output"]] == [*on_grids, *[(2, 17, 32)] * 2]
    _, ours, seen = _spied("volo", output="attn.proj")
    torch.testing.assert_close(ours.unflatten(1, (8, 8)), seen["output"])


@pytest.mark.parametrize("name", ["tnt", "xcit", "convit", "cait", "crossvit"])
def test_output_is_what_attention_returns(name: str) -> None:
    _, ours, seen = _spied(name, output="attn_out.proj" if name == "tnt" else "attn.proj")
    torch.testing.assert_close(ours, seen["output"])


def test_an_adapter_on_the_shared_projection_is_refused() -> None:
    model = build("parallel_fused")
    projection = model.blocks[0].out_proj
    projection.base_layer = nn.Identity()  # what makes a layer of the peft library
    with (
        vitreg.trace(model, "msa_output", layers=[0]),
        pytest.raises(vitreg.UnsupportedModelError, match="adapter"),
    ):
        model(images_of("parallel_fused"))


@pytest.mark.parametrize(
    ("name", "block", "words"),
    [("xcit", 0, "between channels"), ("convit", 0, "positions"), ("volo", 0, "small windows")],
)
def test_other_attention_is_refused_with_its_reason(name: str, block: int, words: str) -> None:
    model = build(name)
    with (
        pytest.raises(vitreg.UnsupportedModelError, match=words),
        vitreg.trace(model, "attn_logits", layers=[block], query="mean"),
    ):
        pass
    with vitreg.trace(model, "msa_output", layers=[block]) as read:
        model(images_of(name))
    assert read["msa_output"][0].dim() == 3


def test_padded_patches_come_with_a_mask_and_are_refused() -> None:
    model = build("naflex_map").eval()
    where = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij"), -1).view(1, 6, 2)
    batch = {
        "patches": torch.randn(1, 6, 192),
        "patch_coord": where,
        "patch_valid": torch.tensor([[True] * 5 + [False]]),
    }
    for query in ("mean", "pool"):
        with (
            vitreg.trace(model, "attn_logits", query=query),
            pytest.raises(vitreg.UnsupportedModelError, match="a batch of images"),
        ):
            model(batch)
    model = build("gemma").eval()
    with (
        vitreg.trace(model, "attn_logits", query="mean"),
        pytest.raises(vitreg.UnsupportedModelError, match="a batch of images"),
    ):
        model(batch["patches"], patch_coord=where, patch_valid=batch["patch_valid"])


@pytest.mark.parametrize("name", ["parallel", "diff", "diff_parallel", "parallel_things"])
def test_a_mask_is_refused(name: str) -> None:
    model = build(name)
    mask = torch.zeros(18, 18)
    with vitreg.trace(model, "attn_logits"), pytest.raises(vitreg.UnsupportedModelError, match="mask"):
        model(images_of(name), attn_mask=mask)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("pool_type", ["token", "avg"])
def test_several_latents(pool_type: str, fused: bool) -> None:
    model = make_vit(class_token=False, global_pool="map")
    model.attn_pool = AttentionPoolLatent(
        16, num_heads=4, latent_len=3, qk_norm=True, pos_embed="abs", feat_size=16, pool_type=pool_type
    )
    model.attn_pool.fused_attn = fused
    truth = Truth([model.attn_pool])
    with vitreg.trace(model, "attn_logits", query="pool") as read:
        truth.run(model, images_of("map_pool"))
    expected = expected_logits(truth.of(model.attn_pool), "pool", 0, pool_type)
    torch.testing.assert_close(read["attn_logits"][0], expected, atol=1e-4, rtol=0)
    model.attn_pool.pool = ""
    assert not vitreg.describe(model).queries["pool"]


def test_patches_behind_a_convolutional_stem() -> None:
    stem = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4))
    embed = partial(HybridEmbed, backbone=stem, proj=True)
    tower = find_tower(make_vit(img_size=64, patch_size=2, embed_layer=embed))
    assert (tower.grid, tower.patch_size) == ((8, 8), (8, 8))


def test_patches_of_a_padded_picture_have_no_known_size() -> None:
    tower = find_tower(make_vit(dynamic_img_size=True, dynamic_img_pad=True))
    assert (tower.grid, tower.patch_size) == (None, None)


def test_each_stage_of_pit_has_its_grid() -> None:
    tower = find_tower(build("pit"))
    assert [block.grid for block in tower.blocks] == [(7, 7), (4, 4), (2, 2)]


def test_a_late_class_token_is_no_token_of_the_blocks_before() -> None:
    for name, joins in (("cait", 3), ("xcit", 3), ("convit", 1), ("volo", 4)):
        for index, block in enumerate(find_tower(build(name)).blocks):
            assert block.has_class_token is (index >= joins)
            assert block.num_prefix_tokens == (index >= joins)


def test_a_penalty_on_late_class_attention() -> None:
    model = build("cait").train()
    attachment = vitreg.attach(model, MODELS["cait"]())
    model(images_of("cait"))
    assert attachment.penalty() > 0
    attachment.remove()


def test_a_block_of_tnt_returns_its_patches() -> None:
    model = build("tnt").eval()
    last: list[Tensor] = []
    handle = model.norm.register_forward_pre_hook(lambda module, args: last.append(args[0]))
    with vitreg.trace(model, "block_output", layers=[-1]) as read:
        model(images_of("tnt"))
    handle.remove()
    assert read["block_output"][0] is last[0]


def test_a_picture_that_patches_do_not_tile_reaches_the_source_as_it_is() -> None:
    model = make_vit(img_size=36).train()  # 4×4 patches of 8 pixels, and 4 pixels left over
    attachment = vitreg.attach(model, make_vit(img_size=36))
    model(torch.randn(2, 3, 36, 36))
    assert attachment.penalty() > 0
    attachment.remove()
    assert find_tower(model).grid == (4, 4)
