"""Authors' own code is found by its shape: what is read is what enters its softmax, and training is right."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import vitreg
from authors_code import MODELS, clip, dino, dinov2
from laws import refuses, unchanged
from small_models import shake
from softmax_recorder import SoftmaxRecorder
from vitreg.families import find_tower
from vitreg.types import Query

vit_pytorch = pytest.importorskip("vit_pytorch")

SIZES = {"image_size": 64, "patch_size": 16, "num_classes": 5, "dim": 32, "depth": 2}
SMALL = {**SIZES, "heads": 2, "mlp_dim": 64}
VIT_PYTORCH = {
    "vit-pytorch ViT": lambda: vit_pytorch.ViT(**SMALL, dim_head=8),
    "vit-pytorch ViT, mean": lambda: vit_pytorch.ViT(**SMALL, dim_head=8, pool="mean", dropout=0.1),
    "vit-pytorch SimpleViT": lambda: vit_pytorch.SimpleViT(**SMALL, dim_head=8),
}
ALL = MODELS | VIT_PYTORCH
PREFIX = {
    "DINOv2 DinoVisionTransformer, registers": 5,
    "DINOv3 DinoVisionTransformer": 5,
    "DINOv3 DinoVisionTransformer, tables in bfloat16": 5,
    "DeiT DistilledVisionTransformer": 2,
    "MONAI ViT": 0,
    "MONAI ViT, perceptron": 0,
    "MONAI ViT, flash attention": 0,
    "vit-pytorch ViT, mean": 0,
    "vit-pytorch SimpleViT": 0,
}
"""The number of tokens before the patches; the others have the class token alone."""
REFUSED = {"MAE MaskedAutoencoderViT"}
TWO_ATTENTIONS = {"DeiT III vit_models, parallel"}
READ = sorted(ALL.keys() - REFUSED - TWO_ATTENTIONS)


def make(name: str) -> nn.Module:
    return shake(ALL[name]()).train()


def pictures(model: nn.Module) -> Tensor:
    first = next(m for m in find_tower(model).stem.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    channels = first.in_channels if isinstance(first, nn.Conv2d) else first.in_features // 256
    return torch.randn(3, channels, 64, 64)


def run(model: nn.Module, images: Tensor) -> object:
    return model.encode_image(images) if isinstance(model, clip.CLIP) else model(images)


def rows(whole: Tensor, prefix: int, query: Query) -> Tensor:
    """Return the class token's or the patches' mean row of logits [b, h, n, n], without prefix keys."""
    row = whole[:, :, 0] if query == "cls" else whole[:, :, prefix:].mean(2)
    return row[..., prefix:]


@pytest.mark.parametrize("name", READ)
def test_logits_are_those_of_the_softmax(name: str) -> None:
    model, prefix = make(name), PREFIX.get(name, 1)
    images = pictures(model)
    for training in (True, False):
        for query in ("cls", "mean") if prefix else ("mean",):
            model.train(training)
            with SoftmaxRecorder() as recorder, vitreg.trace(model, "attn_logits", query=query) as read:
                run(model, images)
            assert len(read["attn_logits"]) == len(recorder.logits) == 2
            for ours, whole in zip(read["attn_logits"], recorder.logits, strict=True):
                assert ours.shape == (3, 2, 16)
                assert ours.std() > 1e-3, "nothing to compare"
                torch.testing.assert_close(ours, rows(whole, prefix, query).float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", READ)
def test_a_penalty_is_the_distance_of_the_softmax_inputs(name: str) -> None:
    source, prefix = make(name), PREFIX.get(name, 1)
    for module in source.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the source has none
    model = copy.deepcopy(source)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    images, query = pictures(model), "cls" if prefix else "mean"
    with unchanged(model), vitreg.attach(model, source, vitreg.GTA(query=query)) as reg:
        with SoftmaxRecorder() as recorder, torch.no_grad():
            run(source.eval(), images)
            run(model.eval(), images)
        run(model.train(), images)
        penalty = reg.penalty()
    theirs = torch.stack([rows(whole, prefix, query).float() for whole in recorder.logits])
    torch.testing.assert_close(penalty, (theirs[2:] - theirs[:2]).square().mean(), rtol=1e-3, atol=1e-7)
    penalty.backward()
    stem = next(find_tower(model).stem.parameters())
    assert stem.grad is not None
    assert stem.grad.abs().sum() > 0


@pytest.mark.parametrize("name", sorted(ALL.keys() - REFUSED))
def test_outputs_can_be_read(name: str) -> None:
    model, prefix = make(name).eval(), PREFIX.get(name, 1)
    with torch.no_grad(), vitreg.trace(model, "msa_output", "block_output") as read:
        run(model, pictures(model))
    values = [*read["msa_output"], *read["block_output"]]
    assert [list(value.shape) for value in values] == [[3, prefix + 16, 32]] * 4


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("name", ["DINO VisionTransformer", "DINOv2 DinoVisionTransformer, chunked blocks"])
def test_outputs_are_what_blocks_and_attention_return(name: str) -> None:
    model = make(name).eval()
    blocks = [m for m in model.modules() if isinstance(m, dino.Block | dinov2.NestedTensorBlock)]
    returned: list[Tensor] = []
    find_tower(model)
    for block in blocks:
        for module in (block.attn, block):
            module.register_forward_hook(lambda *seen: returned.append(first(seen[2])))
    with torch.no_grad(), vitreg.trace(model, "msa_output", "block_output") as read:
        model(torch.randn(3, 3, 64, 64))
    ours = [read["msa_output"][0], read["block_output"][0], read["msa_output"][1], read["block_output"][1]]
    assert all(torch.equal(one, other) for one, other in zip(ours, returned, strict=True))


def test_blocks_that_are_lists_of_their_parts() -> None:
    model = make("vit-pytorch ViT").eval()
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad(), vitreg.trace(model, "msa_output", "block_output", "features") as read:
        model(images)
    with torch.no_grad():
        x = torch.cat([model.cls_token.expand(3, -1, -1), model.to_patch_embedding(images)], dim=1)
        x = x + model.pos_embedding
        for i, (attention, ffn) in enumerate(model.transformer.layers):
            torch.testing.assert_close(read["msa_output"][i], attention(x))
            x = attention(x) + x
            x = ffn(x) + x
            torch.testing.assert_close(read["block_output"][i], x)
        torch.testing.assert_close(read["features"][0], model.transformer.norm(x)[:, 0])
    with vitreg.freeze(model, train="ffn"):
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "transformer.layers.1.1.net.1.weight" in trained
    assert not any(".0.to_qkv" in name for name in trained)


def test_two_attentions_in_a_block_are_read_as_their_sum() -> None:
    model = make("DeiT III vit_models, parallel").eval()
    block = model.blocks[1]
    seen: list[Tensor] = []
    for attention in (block.attn, block.attn1):
        attention.register_forward_hook(lambda *a: seen.append(a[2]))
    with torch.no_grad(), vitreg.trace(model, "msa_output", layers=1) as read:
        model(torch.randn(3, 3, 64, 64))
    torch.testing.assert_close(read["msa_output"][0], seen[0] + seen[1])
    with refuses(vitreg.UnsupportedModelError, "found 2", "blocks.0.attn1", "Read msa_output"):
        vitreg.attach(model)


@pytest.mark.parametrize("around", [nn.Identity, nn.Sequential])
def test_shuffled_tokens_are_refused(around: type[nn.Module]) -> None:
    model = MODELS["MAE MaskedAutoencoderViT"]()
    words = "row by row", "shuffled", "even at mask_ratio=0", "models_vit.py", "ViTMAEModel"
    with refuses(vitreg.UnsupportedModelError, *words):
        vitreg.describe(model if around is nn.Identity else around(model))


@pytest.mark.parametrize("name", ["DINO VisionTransformer", "DINOv2 DinoVisionTransformer"])
def test_a_head_that_does_not_run_is_no_head(name: str) -> None:
    model = make(name)
    assert find_tower(model).heads == (("head",) if "DINOv2" in name else ())
    with vitreg.attach(nn.Sequential(model, nn.Linear(32, 3)), target="bss") as reg:
        features = model(torch.randn(6, 3, 64, 64))
        smallest = torch.linalg.svdvals(features.double())[-1]
        torch.testing.assert_close(reg.penalty().double(), 1e-3 * smallest.square(), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("name", ["OpenAI CLIP", "wise-ft ImageClassifier", "FLYP ImageClassifier"])
def test_a_text_tower_is_pre_trained(name: str) -> None:
    model = make(name)
    home = find_tower(model).home
    assert isinstance(home, clip.CLIP)
    assert find_tower(model).module is home.visual


def test_pictures_of_another_size() -> None:
    model = make("DINOv2 DinoVisionTransformer, registers")
    images, _ = torch.randn(3, 3, 96, 32), find_tower(model)
    with SoftmaxRecorder() as recorder, vitreg.trace(model, "attn_logits") as read:
        model(images)
    for ours, whole in zip(read["attn_logits"], recorder.logits, strict=True):
        assert ours.shape == (3, 2, 12)
        torch.testing.assert_close(ours, whole[:, :, 0, 5:], atol=1e-5, rtol=1e-5)
