"""The linear probe as the head of each library's models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import vitreg
from laws import draw, num_hooks, refuses
from small_models import SMALL, TOWERS, make_clip, make_vit, shake
from vitreg import ArgumentError

CLASSES = 5
FEW = (1e-2, 1e-1)
"""Weight decays of fits that take a moment."""


def pictures(n: int = 30, side: int = 32) -> TensorDataset:
    labels = torch.arange(n) % CLASSES
    return TensorDataset(draw(0, n, 3, side, side) + draw(1, CLASSES, 3, side, side)[labels], labels)


def with_head(name: str) -> nn.Module:
    """Return a small model of a library with a linear head of five classes."""
    if name == "open_clip":
        return nn.Sequential(TOWERS[name](), nn.Dropout(0.5), nn.Linear(8, CLASSES))
    return TOWERS[name]()


def head_of(model: nn.Module) -> nn.Linear:
    return [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == CLASSES][-1]


def literal_features(model: nn.Module, images: Tensor) -> Tensor:
    """Return what enters the head, picture after picture."""
    seen: list[Tensor] = []
    handle = head_of(model).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    was_training = model.training
    with torch.no_grad():
        for image in images:
            model.eval()(image[None])
    model.train(was_training)
    handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("name", sorted(TOWERS))
def test_the_head_is_the_probe_of_the_features(name: str) -> None:
    model = shake(with_head(name)).train()
    model.get_submodule("0" if name == "open_clip" else "").eval()  # modes that differ are put back each
    modes = [module.training for module in model.modules()]
    data = pictures()
    others = {k: v.clone() for k, v in model.state_dict().items() if v.shape[:1] != (CLASSES,)}
    random_state = torch.get_rng_state()
    probe = vitreg.fit_head(model, DataLoader(data, batch_size=8), weight_decays=FEW)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == modes
    assert num_hooks(model) == 0
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in others.items())
    images, labels = data.tensors
    expected = vitreg.fit_probe(
        literal_features(model, images), labels, num_classes=CLASSES, weight_decays=FEW
    )
    assert probe.weight_decay == expected.weight_decay
    head = head_of(model)
    torch.testing.assert_close(head.weight.detach().double(), expected.weight, rtol=1e-2, atol=1e-3)
    with torch.no_grad():
        logits = model.eval()(images)
    torch.testing.assert_close(
        logits.double(),
        literal_features(model, images).double() @ probe.weight.T + probe.bias,
        rtol=1e-3,
        atol=1e-3,
    )
    assert float((logits.argmax(1) == labels).double().mean()) == pytest.approx(probe.train_accuracy)
    assert torch.equal(probe.labels, labels)
    assert all(p.requires_grad and p.grad is None for p in head.parameters())


def test_twice_the_same_bits_however_the_loader_shuffles() -> None:
    data = pictures(33)
    start, heads = shake(make_vit()).state_dict(), []
    for loader in (
        DataLoader(data, batch_size=8),
        DataLoader(data, batch_size=8, shuffle=True, drop_last=True),
        DataLoader(data, batch_size=8, shuffle=True),
    ):
        torch.manual_seed(len(heads))
        model = make_vit()
        model.load_state_dict(start)
        probe = vitreg.fit_head(model, loader, weight_decays=FEW)
        assert len(probe.labels) == 33
        heads.append((model.head.weight.clone(), model.head.bias.clone(), probe.held_out_logits))
    for other in heads[1:]:
        assert all(torch.equal(a, b) for a, b in zip(heads[0], other, strict=True))


def test_transformers_with_mappings() -> None:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32,
        patch_size=8, num_labels=CLASSES,
    )  # fmt: skip
    model = shake(transformers.ViTForImageClassification(config))
    images, labels = pictures().tensors
    batches = [{"pixel_values": images[i : i + 8], "labels": labels[i : i + 8]} for i in range(0, 30, 8)]
    probe = vitreg.fit_head(model, batches, weight_decays=FEW)
    with torch.no_grad():
        logits = model.eval()(images).logits
    assert float((logits.argmax(1) == labels).double().mean()) == pytest.approx(probe.train_accuracy)
    written = model.classifier.weight.clone()
    vitreg.fit_head(
        model, [(images[i : i + 8], labels[i : i + 8]) for i in range(0, 30, 8)], weight_decays=FEW
    )
    assert torch.equal(model.classifier.weight, written)


SMALL_TRANSFORMERS = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ViTForImageClassification", "ViTConfig"),
        ("DeiTForImageClassificationWithTeacher", "DeiTConfig"),  # the mean of two heads
        ("Dinov2ForImageClassification", "Dinov2Config"),  # its head sees the patches' mean, too
        ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig"),
        ("BeitForImageClassification", "BeitConfig"),
    ],
)
def test_classifiers_of_transformers(name: str, config: str) -> None:
    import transformers

    made = getattr(transformers, config)(**SMALL_TRANSFORMERS, num_labels=CLASSES)
    model = shake(getattr(transformers, name)(made))
    images, labels = pictures().tensors
    probe = vitreg.fit_head(model, [{"pixel_values": images, "labels": labels}], weight_decays=FEW)
    with torch.no_grad():
        logits = model.eval()(images).logits
    assert float((logits.argmax(1) == labels).double().mean()) == pytest.approx(probe.train_accuracy)
    assert float(F.cross_entropy(logits, labels)) < 1.6, "better than chance, ln 5"


def test_two_heads_whose_mean_is_returned_are_fitted_together() -> None:
    from timm.models.deit import VisionTransformerDistilled

    model = shake(VisionTransformerDistilled(**SMALL)).train()
    images, labels = pictures().tensors
    probe = vitreg.fit_head(model, [(images, labels)], weight_decays=FEW)
    with torch.no_grad():
        tokens = model.eval().forward_features(images)
        both = torch.cat([tokens[:, 0], tokens[:, 1]], dim=1)
        logits = model(images)
    expected = vitreg.fit_probe(both, labels, num_classes=CLASSES, weight_decays=FEW)
    assert torch.equal(probe.weight, expected.weight)
    torch.testing.assert_close(
        logits.double(), both.double() @ expected.weight.T + expected.bias, rtol=1e-4, atol=1e-4
    )


def test_a_head_without_bias_and_a_norm_before_it() -> None:
    tower = shake(make_vit(num_classes=0))
    model = nn.Sequential(tower, nn.LayerNorm(16), nn.Dropout(0.9), nn.Linear(16, CLASSES, bias=False))
    images, labels = pictures().tensors
    vitreg.fit_head(model, [(images, labels)], weight_decays=FEW)
    with torch.no_grad():
        rows = F.layer_norm(tower.eval()(images), (16,))
    expected = vitreg.fit_probe(rows, labels, num_classes=CLASSES, has_bias=False, weight_decays=FEW)
    torch.testing.assert_close(model[-1].weight.detach().double(), expected.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_head_in_half_precision_is_rounded(dtype: torch.dtype) -> None:
    model = shake(make_vit()).to(dtype)
    images, labels = pictures().tensors
    probe = vitreg.fit_head(model, [(images, labels)], weight_decays=FEW)
    assert torch.equal(model.head.weight, probe.weight.to(dtype))
    with torch.no_grad():
        agreeing = (model.eval()(images.to(dtype)).argmax(1) == labels).double().mean()
    assert float(agreeing) > probe.train_accuracy - 0.15


def test_under_autocast_it_is_the_head_of_what_autocast_gives() -> None:
    model = shake(make_vit())
    images, labels = pictures().tensors
    with torch.autocast("cpu", torch.bfloat16):
        probe = vitreg.fit_head(model, [(images, labels)], weight_decays=FEW)
        with torch.no_grad():
            logits = model.eval()(images)
    assert logits.dtype == torch.bfloat16
    assert float((logits.argmax(1) == labels).double().mean()) > probe.train_accuracy - 0.15


def test_an_attachment_does_not_see_it() -> None:
    model, source = make_vit().train(), make_vit()
    images, labels = pictures().tensors
    with vitreg.attach(model, source) as attachment:
        vitreg.fit_head(model, [(images, labels)], weight_decays=FEW)
        model(images)
        assert attachment.penalty() > 0


def test_clip_with_a_classifier() -> None:
    model = nn.Sequential(make_clip().visual, nn.Linear(8, CLASSES))
    images, labels = pictures().tensors
    before = model[1].weight.clone()
    vitreg.fit_head(model, [[images, labels, "more"]], weight_decays=FEW)
    assert not torch.equal(model[1].weight, before)


def test_batches_that_cannot_be_read() -> None:
    model = make_vit()
    images, labels = pictures().tensors
    before = copy.deepcopy(model.state_dict())

    def fit(*batches: Any) -> None:
        vitreg.fit_head(model, batches, weight_decays=FEW)

    with refuses(ArgumentError, "Expected batches of pictures", "yields none"):
        fit()
    with refuses(ArgumentError, "(images, labels)", "[30, 3, 32, 32]"):
        fit(images)
    with refuses(ArgumentError, "'labels'", "a mapping with 'image'"):
        fit({"image": images})
    with refuses(ArgumentError, "(images, labels)", "int"):
        fit((images, 3))
    with refuses(ArgumentError, "class indices [b]", "[30, 5]", "one-hot"):
        fit((images, F.one_hot(labels)))
    with refuses(ArgumentError, "a label for each of 30 images", "29"):
        fit((images, labels[1:]))
    with refuses(ArgumentError, "from 0 to 4 for 5 classes", "from 1 to 5", "num_classes"):
        fit((images, labels + 1))
    with refuses(ArgumentError, "each of 5 classes", "none of 2 (3, 4)", "num_classes"):
        fit((images, labels % 3))
    assert num_hooks(model) == 0
    assert model.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
