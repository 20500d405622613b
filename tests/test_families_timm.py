"""timm's Vision Transformers beyond the plain ones: logits, outputs, tokens and grids are the model's own."""

from __future__ import annotations

import pytest
import torch

import vitreg
from timm_families import (
    MODELS,
    Truth,
    build,
    expected_logits,
    images_of,
)
from vitreg.families import find_tower


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_softmax(name: str, fused: bool) -> None:
    model, images = build(name), images_of(name)
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
            truth = Truth([block.attention for block in blocks])
            layers = "all" if query == "pool" else list(indices)
            with vitreg.trace(model, "attn_logits", layers=layers, query=query) as read:
                truth.run(model, images)
            for ours, block in zip(read["attn_logits"], blocks, strict=True):
                whole, pooled = truth.of(block.attention), getattr(block.attention, "pool", "")
                expected = expected_logits(whole, query, block.num_prefix_tokens, pooled)
                assert block.reading.num_heads == ours.shape[1]
                torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
                assert ours.dtype == torch.float32
                rows, columns = block.grid or (images.shape[2] // 8, images.shape[3] // 8)
                assert ours.shape[-1] == rows * columns


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_the_first_layer(name: str) -> None:
    model, images = build(name).train(), images_of(name)
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
    assert vitreg.describe(build(name)).queries == QUERIES[name]


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
    tower = find_tower(build(name))
    assert tower.num_prefix_tokens == num_prefix
    assert tower.has_class_token is has_class_token
    assert tower.grid == grid
    assert tower.patch_size == patch_size
    assert tower.position_embeddings or name == "relpos_mlp"  # whose positions are inside its attention
    for parameter in tower.position_embeddings:
        tower.module.get_parameter(parameter)
    for head in tower.heads:
        tower.module.get_submodule(head)
