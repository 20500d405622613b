"""Relevance and outliers, beside literal second writings."""

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses, unchanged
from small_models import TOWERS, shake
from vitreg import ArgumentError, UnsupportedModelError
from vitreg.measure import attention_outliers, relevance


def literal(model: nn.Module, images: Tensor, classes: list[int]) -> Tensor:
    """Return relevance by timm's unfused attention and autograd on its matrices, picture by picture."""
    model = model.double()
    kept: list[Tensor] = []

    def keep(_: object, args: object, out: Tensor) -> Tensor:
        kept.append(out)
        out.retain_grad()
        return out

    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(keep)
    maps = []
    for image, label in zip(images.double(), classes, strict=True):
        kept.clear()
        model(image[None])[0, label].backward()
        n = kept[0].shape[-1]
        reached = torch.eye(n, dtype=torch.float64)
        for attention in kept:
            mean = torch.zeros(n, n, dtype=torch.float64)
            for h in range(attention.shape[1]):
                for i in range(n):
                    for j in range(n):
                        product = attention.grad[0, h, i, j] * attention.detach()[0, h, i, j]
                        mean[i, j] += max(0.0, product.item()) / attention.shape[1]
            reached = reached + mean @ reached
        maps.append(reached[0, model.num_prefix_tokens :])
    return torch.stack(maps)


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2, "qk_norm": True}])
def test_literal(vit: object, images: Tensor, options: dict[str, object]) -> None:
    model = shake(vit(**options)).train()
    classes = [0, 3, 1, 1]
    with unchanged(model):
        ours = relevance(model, images[:2], classes[:2])
    assert ours.shape == (2, 4, 4)
    expected = literal(model.eval(), images[:2], classes[:2])
    torch.testing.assert_close(ours.flatten(1).double(), expected, rtol=1e-3, atol=1e-7)


def test_every_library_is_read_or_refused(tower_model: nn.Module, images: Tensor) -> None:
    shake(tower_model)
    with unchanged(tower_model):
        if type(tower_model).__name__ == "Eva" and tower_model.blocks[0].attn.norm.__class__ is nn.LayerNorm:
            with refuses(UnsupportedModelError, "Relevance needs attention whose heads are", "'blocks.0'"):
                relevance(tower_model, images)
            return
        found = relevance(tower_model, images)
    assert found.shape == (4, 4, 4)
    assert bool((found >= 0).all())
    assert found.sum() > 0


def test_the_class_matters_and_is_by_default_what_the_model_says(vit: object, images: Tensor) -> None:
    model = shake(vit()).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    said = model(images).argmax(1)
    torch.testing.assert_close(relevance(model, images), relevance(model, images, said))
    other = (said + 1) % 5
    assert not torch.allclose(relevance(model, images), relevance(model, images, other))
    assert relevance(model, images, query="mean").shape == (4, 4, 4)
    for classes in ([0, 1], [0, 1, 2, 5], [0.5] * 4):
        with refuses(ArgumentError, "one class below 5 for each of 4 pictures"):
            relevance(model, images, classes)
    with refuses(UnsupportedModelError, "returns logits [b, classes]"):
        relevance(vit(global_pool="", num_classes=0), images)


def test_whole_matrices_on_request(vit: object, images: Tensor) -> None:
    model = vit(reg_tokens=2).eval()
    (whole,) = vitreg.measure.attention_maps(model, images, layers=-1, query="all")
    (row,) = vitreg.measure.attention_maps(model, images, layers=-1)
    assert whole.shape == (4, 2, 19, 4, 4)
    torch.testing.assert_close(whole[:, :, 0], row, rtol=1e-4, atol=1e-6)


def test_outliers_are_found_where_they_were_put(vit: object, images: Tensor) -> None:
    model = vit().eval()
    places = [3, 0, 15, 7]

    def enlarge(_: object, args: object, out: Tensor) -> Tensor:
        factors = torch.ones_like(out[..., :1])
        for picture, place in enumerate(places):
            factors[picture, 1 + place] = 50
        return out * factors

    handle = model.blocks[1].register_forward_hook(enlarge)
    found = attention_outliers(model, images)
    maps = vitreg.measure.attention_maps(model, images)
    handle.remove()
    assert found.where.shape == found.norms.shape == (3, 4, 4, 4)
    expected = torch.zeros(4, 16, dtype=torch.bool)
    for picture, place in enumerate(places):
        expected[picture, place] = True
    assert not found.where[0].any()
    assert torch.equal(found.where[1].flatten(1), expected)
    for picture, place in enumerate(places):
        row = maps[1][picture].double().mean(0).flatten()
        assert found.attention[1, picture].item() == pytest.approx((row[place] / row.sum()).item(), rel=1e-4)
    with refuses(ArgumentError, "factor must be a finite number above 0"):
        attention_outliers(model, images, factor=0)


def test_outliers_of_every_library(images: Tensor) -> None:
    for make in TOWERS.values():
        found = attention_outliers(make(), images, layers=-1)
        assert found.where.shape == (1, 4, 4, 4)
        norms = found.norms[0, 0].flatten().tolist()
        assert found.where[0, 0].flatten().tolist() == [n > 4 * sorted(norms)[7] for n in norms]
