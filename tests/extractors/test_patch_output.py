import timm
import torch
from torch import Tensor

import vitreg
from laws import refuses
from vitreg import FeatureGuide, MismatchError, UnsupportedModelError


def test_they_are_the_tokens_behind_the_prefix(vit: object, images: Tensor) -> None:
    model = vit(reg_tokens=2).eval()
    with vitreg.trace(model, "patch_output", "block_output") as trace:
        model(images)
    for ours, whole in zip(trace["patch_output"], trace["block_output"], strict=True):
        assert torch.equal(ours, whole[:, 3:])


def test_a_block_that_updates_its_class_token_alone_has_none(images: Tensor) -> None:
    model = timm.create_model("cait_xxs24_224", img_size=32, depth=2, embed_dim=24, num_heads=2).eval()
    with vitreg.trace(model, "patch_output") as trace:
        model(images)
    assert [list(value.shape) for value in trace["patch_output"]] == [[4, 4, 24]] * 2
    with refuses(UnsupportedModelError, "patch_output", "class token alone", "cls_output"):
        vitreg.trace(model, "patch_output", layers=-1).__enter__()


def test_a_windowed_model_has_no_known_patches() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, embed_dim=24, depths=(1, 1))
    with refuses(UnsupportedModelError, "patch_output needs a known patch grid", "block_output"):
        vitreg.trace(model, "patch_output").__enter__()


def test_a_source_with_other_prefix_tokens_and_another_grid(vit: object, images: Tensor) -> None:
    model, source = vit().train(), vit(reg_tokens=2, patch_size=16)
    guide = FeatureGuide("patch_output", align="resample")
    with vitreg.attach(model, source, target=guide) as attachment:
        model(images)
        assert attachment.penalty().item() > 0
    with refuses(MismatchError, "prefix tokens"):
        vitreg.attach(model, source, target=FeatureGuide("block_output", align="resample"))


def test_dropped_patches_are_refused(vit: object, images: Tensor) -> None:
    model = vit(patch_drop_rate=0.25).train()
    with vitreg.attach(model, target="patch_output") as attachment:
        model(images)
        with refuses(MismatchError, "Token dropping"):
            attachment.penalty()
