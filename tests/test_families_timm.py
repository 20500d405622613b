"""timm's Vision Transformers beyond the plain ones: logits, outputs, tokens and grids are the model's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.hybrid_embed import HybridEmbed
from timm.models.cait import Cait
from timm.models.convit import ConVit
from timm.models.crossvit import CrossVit
from timm.models.eva import Eva
from timm.models.naflexvit import NaFlexVit
from timm.models.pit import PoolingVisionTransformer
from timm.models.tnt import TNT
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock
from timm.models.vision_transformer_relpos import ResPostRelPosBlock, VisionTransformerRelPos
from timm.models.volo import VOLO
from timm.models.xcit import Xcit
from torch import Tensor, nn

import vitreg
from small_models import SMALL, make_vit
from softmax_recorder import SoftmaxRecorder
from vitreg.families import find_tower
from vitreg.hooks import Hooks
from vitreg.types import Query, Tap

RELPOS = {**SMALL, "init_values": 0.1}
WITH_CLASS = {"class_token": True, "global_pool": "token"}
NAFLEX = {
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "pos_embed_grid_size": (4, 4),
    "reg_tokens": 2,
}
LANGUAGE = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
GEMMA = {
    **LANGUAGE,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "position_embedding_size": 64,
}
TNT_SMALL = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 2,
    "inner_dim": 8,
    "num_heads_inner": 2,
    "num_heads_outer": 4,
    "num_classes": 3,
}
PIT = {"img_size": 64, "base_dims": (8, 8, 8), "depth": (1, 1, 1), "heads": (2, 2, 4), "num_classes": 3}
CROSSVIT = {
    "img_size": 48,
    "img_scale": (1.0, 32 / 48),
    "patch_size": (12, 16),
    "embed_dim": (16, 24),
    "depth": ((1, 2, 1), (1, 1, 1)),
    "num_heads": (2, 2),
    "num_classes": 3,
}
VOLO_SMALL = {
    "layers": [1, 1, 2],
    "img_size": 64,
    "stem_hidden_dim": 8,
    "embed_dims": [16, 32, 32],
    "num_heads": [2, 4, 4],
    "outlook_attention": (True, False, False),
    "downsamples": (True, False, False),
    "mlp_ratio": 2.0,
    "post_layers": ("ca", "ca"),
    "num_classes": 3,
}


def _relpos(**options: object) -> nn.Module:
    return VisionTransformerRelPos(**{**RELPOS, **options})


def _vit(block: Any, **options: object) -> nn.Module:
    return make_vit(block_fn=block, reg_tokens=1, qk_norm=True, **options)


def _recent(module: str) -> Any:
    """Return a module of timm that has classes which its oldest supported version does not have."""
    return importlib.import_module(f"timm.models.{module}")


RECENT = {
    **dict.fromkeys(("gemma", "gemma_encoder"), "timm.models.gemma4_vit"),
    **dict.fromkeys(("qwen", "qwen_encoder"), "timm.models.qwen3_vit"),
    **dict.fromkeys(("deepseek", "deepseek_encoder"), "timm.models.deepseek_vit"),
    **dict.fromkeys(("diff", "diff_parallel", "diff_things", "parallel_fused"), "timm.layers.diff_attention"),
    **dict.fromkeys(("prr_token", "prr_mean"), "timm.layers.diff_attention"),
}
"""For models that timm's oldest supported version does not have: a module that came with them, or after."""

MODELS: dict[str, Callable[[], nn.Module]] = {
    "relpos_bias": partial(_relpos, rel_pos_type="bias", **WITH_CLASS),
    "relpos_bias_shared": partial(_relpos, rel_pos_type="bias", shared_rel_pos=True, **WITH_CLASS),
    "relpos_mlp": partial(_relpos, rel_pos_type="mlp", qk_norm=True, **WITH_CLASS),
    "relpos_mlp_no_class": partial(_relpos, rel_pos_type="mlp", block_fn=ResPostRelPosBlock),
    "relpos_mlp_swin": partial(_relpos, rel_pos_type="mlp_swin", rel_pos_dim=8, **WITH_CLASS),
    "relpos_mlp_shared": partial(_relpos, rel_pos_type="mlp", shared_rel_pos=True),
    "parallel": partial(_vit, ParallelScalingBlock),
    "parallel_fused": partial(_vit, partial(ParallelScalingBlock, fuse_out_proj=True)),
    "parallel_things": partial(_vit, partial(ParallelThingsBlock, num_parallel=3)),
    "diff": lambda: make_vit(attn_layer="diff", qk_norm=True, reg_tokens=1),
    "diff_parallel": lambda: _vit(_recent("vision_transformer").DiffParallelScalingBlock),
    "diff_things": partial(_vit, ParallelThingsBlock, attn_layer="diff"),
    "map_pool": lambda: make_vit(class_token=False, global_pool="map", reg_tokens=2),
    "map_pool_prefix": lambda: make_vit(global_pool="map", pool_include_prefix=True),
    "prr_token": lambda: make_vit(global_pool="prr"),
    "prr_mean": lambda: make_vit(class_token=False, global_pool="prr"),
    "eva_map_pool": lambda: Eva(
        **{**SMALL, "patch_size": 8},
        use_rot_pos_emb=True,
        attn_type="rope",
        global_pool="map",
        num_reg_tokens=2,
    ),
    "naflex": lambda: NaFlexVit(**NAFLEX, class_token=True, global_pool="token"),
    "naflex_map": lambda: NaFlexVit(**NAFLEX, class_token=False, global_pool="map", rope_type="mixed"),
    "gemma": lambda: _recent("gemma4_vit").Gemma4VitClassifier(**GEMMA),
    "gemma_encoder": lambda: _recent("gemma4_vit").Gemma4VitEncoder(**GEMMA, pooling_kernel_size=2),
    "qwen": lambda: _recent("qwen3_vit").Qwen3VitClassifier(**LANGUAGE, pos_embed_grid_size=3),
    "qwen_encoder": lambda: _recent("qwen3_vit").Qwen3VitEncoder(**LANGUAGE, pos_embed_grid_size=3),
    "deepseek": lambda: _recent("deepseek_vit").DeepseekVitClassifier(**LANGUAGE),
    "deepseek_encoder": lambda: _recent("deepseek_vit").DeepseekVitEncoder(**LANGUAGE, global_pool="avg"),
    "tnt": lambda: TNT(**TNT_SMALL),
    "tnt_legacy": lambda: TNT(**TNT_SMALL, legacy=True),
    "pit": lambda: PoolingVisionTransformer(**PIT),
    "pit_distilled": lambda: PoolingVisionTransformer(**PIT, distilled=True),
    "crossvit": lambda: CrossVit(**CROSSVIT),
    "convit": lambda: ConVit(**SMALL, local_up_to_layer=1),
    "cait": lambda: Cait(**SMALL, init_values=0.1),
    "xcit": lambda: Xcit(**SMALL, cls_attn_layers=2, eta=0.1),
    "xcit_tokens_norm": lambda: Xcit(**SMALL, cls_attn_layers=2, eta=0.1, tokens_norm=True),
    "volo": lambda: VOLO(**VOLO_SMALL),
}


def _build(name: str) -> nn.Module:
    """Return the model with weights that all matter: zero biases and tables would hide what is left out."""
    if name in RECENT:
        pytest.importorskip(RECENT[name])
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return model


def _images(name: str) -> Tensor:
    side = {"crossvit": 48, "volo": 64}.get(name, 64 if name.startswith("pit") else 32)
    return torch.randn(2, 3, side, side)


class _Truth:
    """What enters the softmaxes that run inside each of `modules`, in one pass."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.recorder = SoftmaxRecorder()
        self.inside: dict[nn.Module, list[Tensor]] = {}
        self.handles = [m.register_forward_pre_hook(self._enter) for m in modules]
        self.handles += [m.register_forward_hook(self._leave) for m in modules]

    def _enter(self, module: nn.Module, args: object) -> None:
        self.start = len(self.recorder.logits)

    def _leave(self, module: nn.Module, args: object, output: object) -> None:
        self.inside[module] = self.recorder.logits[self.start :]

    def run(self, model: nn.Module, images: Tensor) -> None:
        with self.recorder:
            model(images)
        for handle in self.handles:
            handle.remove()

    def of(self, module: nn.Module) -> Tensor:
        """Return [b, h, n, n]; a differential head's two maps, apart when fused, side by side."""
        found = self.inside[module]
        attentions = [m for m in module.modules() if hasattr(m, "lambda_init")]
        if attentions and getattr(attentions[0], "fused_attn", False):
            found = [torch.stack(found[i : i + 2], 2).flatten(1, 2) for i in range(0, len(found), 2)]
        return torch.cat(found, dim=1)


def _expected(whole: Tensor, query: Query, num_prefix: int, pooled: str) -> Tensor:
    if query == "mean":
        row = whole[:, :, num_prefix:].mean(2)
    elif query == "pool" and pooled == "avg":
        row = whole.mean(2)
    else:
        row = whole[:, :, 0]
    return row[..., num_prefix:]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_softmax(name: str, fused: bool) -> None:
    model, images = _build(name), _images(name)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    tower, queries = find_tower(model), vitreg.describe(model).queries
    asked = {query: blocks for query, blocks in queries.items() if blocks}
    assert asked
    for training in (True, False):
        model.train(training)
        for query, indices in asked.items():
            blocks = [tower.pool] if query == "pool" else [tower.blocks[i] for i in indices]
            assert all(block is not None and block.attention is not None for block in blocks)
            truth = _Truth([block.attention for block in blocks])
            layers = "all" if query == "pool" else list(indices)
            with vitreg.trace(model, "attn_logits", layers=layers, query=query) as read:
                truth.run(model, images)
            for ours, block in zip(read["attn_logits"], blocks, strict=True):
                whole, pooled = truth.of(block.attention), getattr(block.attention, "pool", "")
                expected = _expected(whole, query, block.num_prefix_tokens, pooled)
                assert block.reading.num_heads == ours.shape[1]
                torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
                assert ours.dtype == torch.float32
                rows, columns = block.grid or (images.shape[2] // 8, images.shape[3] // 8)
                assert ours.shape[-1] == rows * columns


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_the_first_layer(name: str) -> None:
    model, images = _build(name).train(), _images(name)
    for query, blocks in vitreg.describe(model).queries.items():
        if not blocks:
            continue
        layers = "all" if query == "pool" else [blocks[-1]]
        with vitreg.trace(model, "attn_logits", layers=layers, query=query) as read:
            model(images)
        model.zero_grad()
        read["attn_logits"][0].softmax(-1).square().sum().backward()
        first = [p.grad for n, p in model.named_parameters() if "embed" in n and n.endswith("weight")]
        assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in first)


QUERIES = {
    "parallel": {"cls": (0, 1, 2), "mean": (0, 1, 2), "pool": ()},
    "relpos_mlp_no_class": {"cls": (), "mean": (0, 1, 2), "pool": ()},
    "map_pool": {"cls": (), "mean": (0, 1, 2), "pool": (-1,)},
    "prr_token": {"cls": (0, 1, 2), "mean": (0, 1, 2), "pool": (-1,)},
    "naflex_map": {"cls": (), "mean": (0, 1), "pool": (-1,)},
    "crossvit": {"cls": tuple(range(9)), "mean": (0, 1, 2, 5, 6), "pool": ()},
    "convit": {"cls": (1, 2), "mean": (1, 2), "pool": ()},
    "cait": {"cls": (3, 4), "mean": (0, 1, 2), "pool": ()},
    "xcit": {"cls": (3, 4), "mean": (), "pool": ()},
    "volo": {"cls": (4, 5), "mean": (1, 2, 3), "pool": ()},
}


@pytest.mark.parametrize("name", QUERIES)
def test_who_asks_where(name: str) -> None:
    assert vitreg.describe(_build(name)).queries == QUERIES[name]


@pytest.mark.parametrize(
    ("name", "num_prefix", "has_class_token", "grid", "patch_size"),
    [
        ("relpos_mlp", 1, True, (4, 4), (8, 8)),
        ("map_pool", 2, False, (4, 4), (8, 8)),
        ("naflex", 3, True, None, (8, 8)),
        ("gemma", 0, False, None, (8, 8)),
        ("qwen", 0, False, None, (8, 8)),
        ("tnt", 1, True, (4, 4), (8, 8)),
        ("pit_distilled", 2, True, (2, 2), None),
        ("crossvit", 1, True, (4, 4), None),
        ("convit", 1, True, (4, 4), (8, 8)),
        ("cait", 1, True, (4, 4), (8, 8)),
        ("xcit", 1, True, None, (8, 8)),
        ("volo", 1, True, (4, 4), (16, 16)),
    ],
)
def test_tokens(
    name: str,
    num_prefix: int,
    has_class_token: bool,
    grid: tuple[int, int] | None,
    patch_size: tuple[int, int] | None,
) -> None:
    tower = find_tower(_build(name))
    assert tower.num_prefix_tokens == num_prefix
    assert tower.has_class_token is has_class_token
    assert tower.grid == grid
    assert tower.patch_size == patch_size
    assert tower.position_embeddings or name == "relpos_mlp"  # whose positions are inside its attention
    for parameter in tower.position_embeddings:
        tower.module.get_parameter(parameter)
    for head in tower.heads:
        tower.module.get_submodule(head)


def _spied(name: str, **taps: str) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    """Return the first block, its msa_output, and what left (or, after "<", entered) modules inside it."""
    model = _build(name).eval()
    block, seen = find_tower(model).blocks[0].module, {}
    hooks = Hooks(
        (
            Tap(block.get_submodule(place.lstrip("<")), "input" if place.startswith("<") else "output"),
            partial(seen.__setitem__, key),
        )
        for key, place in taps.items()
    )
    with vitreg.trace(model, "msa_output", layers=[0]) as read:
        model(_images(name))
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
    model = _build("volo").eval()
    with vitreg.trace(model, "msa_output", "block_output") as read:
        model(_images("volo"))
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
    model = _build("parallel_fused")
    projection = model.blocks[0].out_proj
    projection.base_layer = nn.Identity()  # what makes a layer of the peft library
    with (
        vitreg.trace(model, "msa_output", layers=[0]),
        pytest.raises(vitreg.UnsupportedModelError, match="adapter"),
    ):
        model(_images("parallel_fused"))


@pytest.mark.parametrize(
    ("name", "block", "words"),
    [("xcit", 0, "between channels"), ("convit", 0, "positions"), ("volo", 0, "small windows")],
)
def test_other_attention_is_refused_with_its_reason(name: str, block: int, words: str) -> None:
    model = _build(name)
    with (
        pytest.raises(vitreg.UnsupportedModelError, match=words),
        vitreg.trace(model, "attn_logits", layers=[block], query="mean"),
    ):
        pass
    with vitreg.trace(model, "msa_output", layers=[block]) as read:
        model(_images(name))
    assert read["msa_output"][0].dim() == 3


def test_padded_patches_come_with_a_mask_and_are_refused() -> None:
    model = _build("naflex_map").eval()
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
    model = _build("gemma").eval()
    with (
        vitreg.trace(model, "attn_logits", query="mean"),
        pytest.raises(vitreg.UnsupportedModelError, match="a batch of images"),
    ):
        model(batch["patches"], patch_coord=where, patch_valid=batch["patch_valid"])


@pytest.mark.parametrize("name", ["parallel", "diff", "diff_parallel", "parallel_things"])
def test_a_mask_is_refused(name: str) -> None:
    model = _build(name)
    mask = torch.zeros(18, 18)
    with vitreg.trace(model, "attn_logits"), pytest.raises(vitreg.UnsupportedModelError, match="mask"):
        model(_images(name), attn_mask=mask)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("pool_type", ["token", "avg"])
def test_several_latents(pool_type: str, fused: bool) -> None:
    model = make_vit(class_token=False, global_pool="map")
    model.attn_pool = AttentionPoolLatent(
        16, num_heads=4, latent_len=3, qk_norm=True, pos_embed="abs", feat_size=16, pool_type=pool_type
    )
    model.attn_pool.fused_attn = fused
    truth = _Truth([model.attn_pool])
    with vitreg.trace(model, "attn_logits", query="pool") as read:
        truth.run(model, _images("map_pool"))
    expected = _expected(truth.of(model.attn_pool), "pool", 0, pool_type)
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
    tower = find_tower(_build("pit"))
    assert [block.grid for block in tower.blocks] == [(7, 7), (4, 4), (2, 2)]


def test_a_late_class_token_is_no_token_of_the_blocks_before() -> None:
    for name, joins in (("cait", 3), ("xcit", 3), ("convit", 1), ("volo", 4)):
        for index, block in enumerate(find_tower(_build(name)).blocks):
            assert block.has_class_token is (index >= joins)
            assert block.num_prefix_tokens == (index >= joins)


def test_a_penalty_on_late_class_attention() -> None:
    model = _build("cait").train()
    attachment = vitreg.attach(model, MODELS["cait"]())
    model(_images("cait"))
    assert attachment.penalty() > 0
    attachment.remove()


def test_a_block_of_tnt_returns_its_patches() -> None:
    model = _build("tnt").eval()
    last: list[Tensor] = []
    handle = model.norm.register_forward_pre_hook(lambda module, args: last.append(args[0]))
    with vitreg.trace(model, "block_output", layers=[-1]) as read:
        model(_images("tnt"))
    handle.remove()
    assert read["block_output"][0] is last[0]


def test_a_picture_that_patches_do_not_tile_reaches_the_source_as_it_is() -> None:
    model = make_vit(img_size=36).train()  # 4×4 patches of 8 pixels, and 4 pixels left over
    attachment = vitreg.attach(model, make_vit(img_size=36))
    model(torch.randn(2, 3, 36, 36))
    assert attachment.penalty() > 0
    attachment.remove()
    assert find_tower(model).grid == (4, 4)
