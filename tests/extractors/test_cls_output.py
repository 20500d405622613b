import pytest
import timm
import torch
from torch import Tensor

import vitreg
from laws import refuses
from vitreg import UnsupportedModelError


def test_it_is_token_0_of_the_block(vit: object, images: Tensor) -> None:
    model = vit(reg_tokens=2).eval()
    with vitreg.trace(model, "cls_output", "block_output") as trace:
        model(images)
    for ours, whole in zip(trace["cls_output"], trace["block_output"], strict=True):
        assert ours.shape == (4, 16)
        assert torch.equal(ours, whole[:, 0])


def test_all_are_the_blocks_that_have_a_class_token(images: Tensor) -> None:
    model = timm.create_model("cait_xxs24_224", img_size=32, depth=2, embed_dim=24, num_heads=2).eval()
    with vitreg.trace(model, "cls_output", layers="all") as trace:
        model(images)
    assert [list(value.shape) for value in trace["cls_output"]] == [[4, 24]] * 2
    with refuses(UnsupportedModelError, "cls_output needs a class token", "'blocks.0'", "pooled_output"):
        vitreg.trace(model, "cls_output", layers=0).__enter__()


def test_no_class_token(vit: object) -> None:
    with refuses(UnsupportedModelError, "cls_output needs a class token", "pooled_output"):
        vitreg.attach(vit(class_token=False, global_pool="avg"), target="cls_output")


@pytest.mark.parametrize("layers", ["spread", -1])
def test_a_guide_of_it(vit: object, perturb: object, images: Tensor, layers: object) -> None:
    model = vit(depth=6).train()
    with vitreg.attach(model, target="cls_output", layers=layers) as attachment:
        perturb(model)
        model(images)
        assert attachment.penalty().item() > 0
    assert "cls_output of blocks " + ("0–1, 3–5" if layers == "spread" else "5") in repr(attachment)
