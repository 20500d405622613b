"""Heads that are not linear are refused before anything is written, and the model stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import draw, refuses, unchanged
from small_models import SMALL, make_clip, make_vit
from two_processes import in_two_processes
from vitreg import ArgumentError, UnsupportedModelError

IMAGES = draw(0, 20, 3, 32, 32)
LABELS = torch.arange(20) % 5


def fit(model: nn.Module) -> vitreg.LinearProbe:
    return vitreg.fit_head(model, [(IMAGES, LABELS)], weight_decays=[0.1])


class Around(nn.Module):
    """A model that does something to the logits of another."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.body = make_vit()
        self.change = change

    def forward(self, images: Tensor) -> Any:
        return self.change(self.body(images))


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits[None],
        lambda logits: {"logits": logits},
        lambda logits: (0, [logits]),
        torch.clone,
    ],
)
def test_logits_are_found_in_what_is_returned(change: Any) -> None:
    if change(LABELS.float()).__class__ is Tensor and change(LABELS.float()).dim() > 1:
        with refuses(UnsupportedModelError, "Expected Around to return the output of its linear head"):
            fit(Around(change))
    else:
        fit(Around(change))


@pytest.mark.parametrize(
    "change", [lambda logits: 2 * logits, lambda logits: logits.softmax(1), lambda logits: logits + 1]
)
@pytest.mark.parametrize("is_zero", [False, True])
def test_logits_that_are_changed(change: Any, is_zero: bool) -> None:
    model = Around(change)
    if is_zero:  # a scale is invisible as long as the head is zero
        nn.init.zeros_(model.body.head.weight)
        nn.init.zeros_(model.body.head.bias)
    with (
        unchanged(model),
        refuses(UnsupportedModelError, "Expected Around to return", "something else", "Return the logits"),
    ):
        fit(model)


def test_no_head() -> None:
    for model in (make_vit(num_classes=0), make_clip().visual):
        with (
            unchanged(model),
            refuses(
                UnsupportedModelError, "Expected a linear head", "found none", "num_classes", "Sequential"
            ),
        ):
            fit(model)


def test_a_head_of_several_layers() -> None:
    mlp = nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 5))
    model = nn.Sequential(make_vit(num_classes=0), mlp)
    with (
        unchanged(model),
        refuses(UnsupportedModelError, "found Linear '1.0'", "beside '1.2'", "Replace the head"),
    ):
        fit(model)
    prelu = nn.Sequential(make_vit(num_classes=0), nn.PReLU(), nn.Linear(16, 5))
    with unchanged(prelu), refuses(UnsupportedModelError, "found PReLU '1'", "beside '2'"):
        fit(prelu)


def test_a_convolution_as_the_head() -> None:
    tower = make_vit(num_classes=0)
    model = nn.Sequential(tower, nn.Unflatten(1, (16, 1)), nn.Conv1d(16, 5, 1), nn.Flatten())
    with unchanged(model), refuses(UnsupportedModelError, "Expected a linear head", "found Conv1d"):
        fit(model)


def test_volo_adds_its_second_head() -> None:
    from timm.models.volo import VOLO

    options = {
        "layers": (1, 1), "img_size": 32, "embed_dims": (16, 16), "num_heads": (2, 2), "num_classes": 5,
        "downsamples": (False, False), "outlook_attention": (True, False), "mlp_ratio": 2.0,
        "post_layers": ("ca",), "stem_hidden_dim": 8,
    }  # fmt: skip
    model = VOLO(**options)
    with unchanged(model), refuses(UnsupportedModelError, "'head'", "aux_head"):
        fit(model)
    fit(VOLO(**options, use_aux_head=False))


def test_crossvit_and_levit_have_a_mean_of_heads() -> None:
    from timm.models.levit import Levit

    levit = Levit(img_size=64, embed_dim=(16, 16), key_dim=8, depth=(1, 1), num_heads=(2, 2), num_classes=5)
    images = draw(0, 20, 3, 64, 64)
    probe = vitreg.fit_head(
        levit, [(images, LABELS)], weight_decays=[0.1]
    )  # a batch norm and dropout before it
    with torch.no_grad():
        found = (levit.eval()(images).argmax(1) == LABELS).double().mean()
    assert float(found) == pytest.approx(probe.train_accuracy)


def test_a_head_that_runs_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.head = make_vit(num_classes=0), nn.Linear(16, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.tower(images)) + self.head(self.tower(images.flip(3)))

    model = Twice()
    with unchanged(model), refuses(UnsupportedModelError, "the head to run once", "'head' run twice"):
        fit(model)


def test_a_weight_that_half_precision_does_not_hold() -> None:
    model = make_vit().half()
    nn.init.constant_(model.norm.weight, 1e-6)  # tiny features need large weights
    nn.init.zeros_(model.norm.bias)
    with (
        unchanged(model),
        refuses(ArgumentError, "does not fit into torch.float16", "Keep the head in float32"),
    ):
        fit(model)


def test_a_head_is_named() -> None:
    class Composite(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.adapter, self.classifier = (
                make_vit(num_classes=0),
                nn.Linear(16, 16),
                nn.Linear(16, 5),
            )

        def forward(self, images: Tensor) -> Tensor:
            return self.classifier(self.adapter(self.tower(images)))

    model = Composite()
    with unchanged(model), refuses(UnsupportedModelError, "found Linear 'adapter'", "beside 'classifier'"):
        fit(model)
    before = model.adapter.weight.clone()
    probe = vitreg.fit_head(model, [(IMAGES, LABELS)], weight_decays=[0.1], new_head="classifier")
    assert torch.equal(model.classifier.weight, probe.weight.float())
    assert torch.equal(model.adapter.weight, before)
    with unchanged(model), refuses(ArgumentError, "new_head='head' names no parameters"):
        vitreg.fit_head(model, [(IMAGES, LABELS)], new_head="head")


def test_no_vision_transformer_and_no_module() -> None:
    with refuses(UnsupportedModelError, "Expected a Vision Transformer", "Linear"):
        fit(nn.Linear(2, 2))
    with refuses(ArgumentError, "Expected a torch.nn.Module"):
        fit("vit")


def test_a_head_under_lora() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        make_vit(**SMALL), peft.LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["head"])
    )
    wrapper = model.base_model.model.head
    untouched = wrapper.original_module.weight.clone()
    probe = fit(model)
    torch.testing.assert_close(
        wrapper.modules_to_save["default"].weight.detach().double(), probe.weight, atol=1e-5, rtol=1e-5
    )
    assert torch.equal(wrapper.original_module.weight, untouched)


def _fitted(rank: int) -> tuple[Tensor, str]:
    model = make_vit()
    fit(model)
    try:
        vitreg.fit_head(model, [(IMAGES, LABELS.roll(rank))], weight_decays=[0.1])
    except vitreg.MismatchError as error:
        return model.head.weight.detach(), str(error)
    return model.head.weight.detach(), ""


@pytest.mark.slow
def test_processes_have_one_head(tmp_path: Path) -> None:
    (first, said), (second, said_too) = in_two_processes(_fitted, tmp_path)
    assert torch.equal(first, second)
    assert said == said_too
    assert said.startswith("Expected every process to read the same pictures")
