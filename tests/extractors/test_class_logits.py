import timm
import torch
from torch import Tensor

import vitreg
from laws import refuses
from small_models import TOWERS, shake
from vitreg import UnsupportedModelError


def test_it_is_what_the_model_returns(images: Tensor) -> None:
    for name, make in TOWERS.items():
        if name != "open_clip":
            model = shake(make()).eval()
            with vitreg.trace(model, "class_logits") as trace:
                returned = model(images)
            assert torch.equal(trace["class_logits"][0], returned)


def test_several_heads_are_read_by_their_mean() -> None:
    small = {"img_size": 32, "depth": 2, "num_classes": 5, "embed_dim": 32, "num_heads": 2}
    model = shake(timm.create_model("deit_tiny_distilled_patch16_224", **small)).eval()
    with vitreg.trace(model, "class_logits") as trace:
        returned = model(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(trace["class_logits"][0], returned)


def test_no_head(vit: object, clip: object) -> None:
    for model in (vit(num_classes=0), clip()):
        with refuses(UnsupportedModelError, "class_logits needs a classifier", "Read features"):
            vitreg.trace(model, "class_logits").__enter__()
