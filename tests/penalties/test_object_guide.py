import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vitreg
from laws import draw, refuses
from vitreg import ArgumentError, ObjectGuide

size = st.integers(1, 3)
seeds = st.integers(0, 99)


def literal(target: list[Tensor], covered: list[Tensor]) -> float:
    blocks = []
    for attention, masks in zip(target, covered, strict=True):
        offs = []
        for maps, mask in zip(attention.double().tolist(), masks.double().tolist(), strict=True):
            row = [sum(head[p] for head in maps) / len(maps) for p in range(len(mask))]
            if sum(mask) > 0:
                offs.append(1 - sum(m * a for m, a in zip(mask, row, strict=True)) / sum(row))
        blocks.append(sum(offs) / max(1, len(offs)))
    return sum(blocks) / len(blocks)


@given(size, size, size, st.integers(2, 5), seeds)
def test_literal_and_laws(num_blocks: int, b: int, h: int, p: int, seed: int) -> None:
    target = [draw(seed + i, b, h, p).softmax(-1).requires_grad_() for i in range(num_blocks)]
    covered = [draw(seed + 9 + i, b, p).sigmoid().round(decimals=1) for i in range(num_blocks)]
    covered[0][0] = 0  # one picture has no mask
    value = ObjectGuide().value(target, [], covered)
    assert value.item() == pytest.approx(literal(target, covered), rel=1e-4, abs=1e-6)
    assert value.dtype == torch.float32
    assert 0 <= value.item() <= 1
    order = torch.arange(b).roll(1)
    turned = ObjectGuide().value([t[order] for t in target], [], [c[order] for c in covered])
    torch.testing.assert_close(turned, value)
    scaled = ObjectGuide().value([3 * t for t in target], [], covered)
    torch.testing.assert_close(scaled, value, rtol=1e-4, atol=1e-6)
    everywhere = ObjectGuide().value(target, [], [torch.ones_like(c) for c in covered])
    assert everywhere.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("as_boxes", [False, True])
def test_it_is_what_object_share_measures(vit: object, images: Tensor, as_boxes: bool) -> None:
    model = vit().train()
    boxes = torch.tensor([[3, 2, 20, 30], [0, 0, 9, 9], [8, 8, 32, 32], [1, 5, 17, 6]])
    masks = torch.zeros(4, 32, 32, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
        mask[top:bottom, left:right] = True
    with vitreg.attach(model, target=ObjectGuide(layers="all")) as attachment:
        assert attachment.source is None
        model(images)
        value = attachment.penalty(masks=boxes if as_boxes else masks)
        value.backward()
    share = vitreg.measure.object_share(model, images, masks)
    assert value.item() == pytest.approx(1 - share.mean().item(), rel=1e-4)
    assert model.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_pictures_without_a_mask_do_not_count(vit: object, images: Tensor) -> None:
    model = vit().train()
    masks = torch.zeros(4, 32, 32, dtype=torch.bool)
    with vitreg.attach(model, target="object_guide") as attachment:
        model(images)
        assert attachment.penalty(masks=masks).item() == 0
        masks[2, :16] = True
        model(images)
        value = attachment.penalty(masks=masks)
        model(images[2:3])
        torch.testing.assert_close(attachment.penalty(masks=masks[2:3]), value, rtol=1e-4, atol=1e-6)
        model(images)
        with refuses(ArgumentError, "'object_guide' needs penalty(masks=…)", "found none"):
            attachment.penalty()
        model(images)
        with refuses(ArgumentError, "Expected bool masks", "boxes", "found"):
            attachment.penalty(masks=masks.float())
