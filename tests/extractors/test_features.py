import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import TOWERS
from vitreg import ArgumentError, UnsupportedModelError


@pytest.mark.parametrize("pool", ["token", "avg", "max", "map"])
def test_what_the_head_receives(vit: object, images: Tensor, pool: str) -> None:
    model = vit(global_pool=pool).eval()
    with vitreg.trace(model, "features") as trace:
        logits = model(images)
    (features,) = trace["features"]
    torch.testing.assert_close(features, model.forward_head(model.forward_features(images), pre_logits=True))
    torch.testing.assert_close(model.head(features), logits)


def test_without_a_head_the_towers_output(clip: object, images: Tensor) -> None:
    model = clip().eval()
    with vitreg.trace(model, "features") as trace:
        encoded = model.encode_image(images)
    torch.testing.assert_close(trace["features"][0], encoded)


def test_a_tower_without_classifier(vit: object, images: Tensor) -> None:
    model = vit(num_classes=0).eval()
    with vitreg.trace(model, "features") as trace:
        output = model(images)
    torch.testing.assert_close(trace["features"][0], output)


def test_torchvision(images: Tensor) -> None:
    model = TOWERS["torchvision"]().eval()
    with vitreg.trace(model, "features") as trace:
        logits = model(images)
    torch.testing.assert_close(model.heads(trace["features"][0]), logits)


def test_no_pooling(vit: object, images: Tensor) -> None:
    model = vit(global_pool="").train()
    with (
        vitreg.trace(model, "features"),
        refuses(UnsupportedModelError, "[b, d]", "[4, 17, 16]", "global_pool='token'"),
    ):
        model(images)


def test_one_value_takes_no_layers(vit: object) -> None:
    with refuses(ArgumentError, "features", "no layers", "0"):
        vitreg.attach(vit(), target="features", layers=0)


def test_inside_a_classifier_of_the_users_own(clip: object, images: Tensor) -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip = clip()
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.clip.encode_image(x))

    model = Classifier().eval()
    with vitreg.trace(model, "features") as trace:
        logits = model(images)
    torch.testing.assert_close(model.head(trace["features"][0]), logits)
