import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import TOWERS, make_vit
from vitreg import ArgumentError, StateError, UnsupportedModelError
from vitreg.extractors import extractors


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


class Headless(nn.Module):
    """A ViT with an nn.Identity for a head, as DINO's code has it, which its forward may or may not call."""

    def __init__(self, calls: bool) -> None:
        super().__init__()
        self.vit, self.calls = make_vit(num_classes=0), calls
        self.head = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        features = self.vit.forward_head(self.vit.forward_features(images), pre_logits=True)
        return 2 * self.head(features) if self.calls else features


@vitreg.register_tower(Headless)
def headless(model: Headless) -> vitreg.TowerParts:
    return vitreg.TowerParts(
        stem=model.vit.patch_embed,
        blocks=[vitreg.BlockParts(b, b.attn, b.mlp) for b in model.vit.blocks],
        heads=("head",),
        num_prefix_tokens=1,
        has_class_token=True,
        grid=(4, 4),
        width=16,
        patch_size=(8, 8),
    )


@pytest.mark.parametrize("calls", [False, True])
def test_a_head_that_is_none_need_not_be_called(calls: bool, images: Tensor) -> None:
    model = Headless(calls).train()
    expected = model.vit.forward_head(model.vit.forward_features(images), pre_logits=True)
    with vitreg.attach(model, target=["features", "bss"]) as attachment:
        for _ in range(2):
            with vitreg.trace(model, "features") as trace:
                model(images)
            assert torch.equal(trace["features"][0], expected)
            attachment.penalty().backward()
        smallest = torch.linalg.svdvals(expected.detach().double())[-1].item() ** 2
        assert attachment.terms["bss"].item() == pytest.approx(smallest, rel=1e-5)


def test_a_head_that_is_called_apart(vit: object, images: Tensor) -> None:
    model = vit(num_classes=0).train()
    with vitreg.attach(model, target="bss") as attachment:
        model.forward_head(model.forward_features(images))
        assert attachment.penalty() >= 0


def test_a_head_that_is_never_called_is_explained(images: Tensor) -> None:
    model = Headless(calls=False).train()
    model.head = nn.Linear(16, 3)
    with vitreg.attach(model, target="bss") as attachment:
        model(images)
        with refuses(StateError, "did not deliver features", "registered with heads=()"):
            attachment.penalty()


def test_what_an_extractor_of_somebodys_reads_is_a_tensor(vit: object, images: Tensor) -> None:
    vitreg.register_extractor("nothing_at_all")(
        lambda tower, block, query: vitreg.Probe({"output": vitreg.Tap(block.module)}, lambda seen: None)
    )
    try:
        with (
            vitreg.trace(vit(), "nothing_at_all") as trace,
            refuses(UnsupportedModelError, "nothing_at_all of block 0", "a tensor, found NoneType"),
        ):
            trace._reader.tower.module(images)
    finally:
        del extractors._entries["nothing_at_all"]
